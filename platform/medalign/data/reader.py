"""Reading a corpus's rows: by number, in any order, or a split from end to end. Plain pyarrow, no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medalign import storage
from medalign.data import manifest
from medalign.errors import CorpusError


@dataclass(frozen=True)
class RowSource:
    """The rows of some splits of a corpus, numbered through in manifest order. Small and picklable.

    Attributes:
        shards: the URI of each shard.
        row_groups: (shard, row group within it, rows) for each row group.
        classes: the corpus's classes; a label's index is its place here.
    """

    shards: tuple[str, ...]
    row_groups: tuple[tuple[int, int, int], ...]
    classes: tuple[str, ...]

    @classmethod
    def open(cls, uri: str, splits: tuple[str, ...]) -> RowSource:
        """Open splits of a corpus.

        Raises:
            CorpusError: no corpus, or no images of a split.
        """
        corpus = manifest.read(uri)
        uri = storage.absolute(uri)
        shards = [shard for split in splits for shard in corpus.split(split).shards]
        groups = [(s, g, rows) for s, shard in enumerate(shards) for g, rows in enumerate(shard.row_groups)]
        return cls(tuple(storage.join(uri, shard.path) for shard in shards), tuple(groups), corpus.classes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of rows of each row group."""
        return tuple(rows for _, _, rows in self.row_groups)

    def take(self, rows: np.ndarray, columns: tuple[str, ...] = ("image", "label")) -> pa.Table:
        """Return the rows with these numbers, in this order; each row group is read once.

        Raises:
            CorpusError: a shard that cannot be read.
        """
        ends = np.cumsum(self.sizes)
        groups = np.searchsorted(ends, rows, side="right")
        wanted = np.unique(groups)
        offsets = np.concatenate([[0], np.cumsum([self.sizes[g] for g in wanted])])
        tables = [self._read(int(g), columns) for g in wanted]
        within = rows - (ends[groups] - np.asarray(self.sizes)[groups])
        return pa.concat_tables(tables).take(pa.array(offsets[np.searchsorted(wanted, groups)] + within))

    def label_index(self, labels: pa.ChunkedArray) -> np.ndarray:
        """Return each label's class index, -1 for none."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index.get(label, -1) for label in labels.to_pylist()], dtype=np.int64)

    def _read(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        shard, number, _ = self.row_groups[group]
        try:
            table = _open_shard(self.shards[shard]).read_row_group(number, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"{self.shards[shard]}: row group {number} cannot be read ({error}).") from error
        if "image" not in columns:
            return table
        # 64-bit offsets: the images of a window together may exceed the 2 GiB of a plain binary column
        images = table["image"].cast(pa.large_binary())
        return table.set_column(table.schema.get_field_index("image"), "image", images)


@lru_cache(maxsize=32)
def _open_shard(uri: str) -> pq.ParquetFile:
    filesystem, path = storage.resolve(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def read_rows(
    uri: str, split: str, columns: tuple[str, ...] | None = None, *, batch_size: int = 64
) -> Iterator[pa.RecordBatch]:
    """Yield a split's rows from end to end, in manifest order.

    Raises:
        CorpusError: no corpus, no images of that split, or a shard that cannot be read.
    """
    for shard in manifest.read(uri).split(split).shards:
        where = storage.join(uri, shard.path)
        try:
            yield from _open_shard(storage.absolute(where)).iter_batches(
                batch_size, columns=list(columns) if columns else None
            )
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"{where}: cannot be read ({error}).") from error
