"""Reading a corpus's rows: by number, in any order, or a split from end to end. Plain pyarrow, no Ray.

Every row group is checked against the manifest's hashes before a row of it is seen; `on_damage` says what happens to
one that is not what the manifest says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medalign import storage
from medalign.data import manifest
from medalign.data.manifest import ANNOTATIONS, Shard, columns_of
from medalign.data.shard_file import ShardDamage, ShardFile, open_shard
from medalign.errors import CorpusError

OnDamage = Literal["stop", "skip", "refetch"]
FETCHES = 3
PAUSE_S = 0.5  # before the second fetch; twice as long before the third
# 64-bit offsets: the images of a window together may exceed the 2 GiB of a plain binary column
_SCHEMA = pa.schema(
    [
        f if f.name not in ("image", "mask") else pa.field(f.name, pa.large_binary())
        for f in (*columns_of("vqa"), *ANNOTATIONS)
    ]  # a corpus may have fewer
)


@dataclass(frozen=True)
class RowSource:
    """The rows of some splits of one corpus or of several, numbered through. Small and picklable.

    Attributes:
        shards: the URI of each shard.
        row_groups: (shard, row group within it, rows) for each row group.
        classes: the classes; a label's index is its place here.
        files: what the manifest says of each shard.
        parts: the number of row groups of each corpus.
        on_damage: what a row group that is not what its manifest says does: "stop" ends the run, "skip" makes holes
            of its rows, "refetch" reads it again, three times in all, and then stops.
    """

    shards: tuple[str, ...]
    row_groups: tuple[tuple[int, int, int], ...]
    classes: tuple[str, ...]
    files: tuple[Shard, ...] = ()
    parts: tuple[int, ...] = ()
    on_damage: OnDamage = "stop"

    @classmethod
    def open(cls, uri: str, splits: tuple[str, ...], *, on_damage: OnDamage = "stop") -> RowSource:
        """Open splits of a corpus.

        Raises:
            CorpusError: no corpus, or no images of a split.
        """
        return cls.open_all((uri,), splits, on_damage=on_damage)

    @classmethod
    def open_all(cls, uris: Sequence[str], splits: tuple[str, ...], *, on_damage: OnDamage = "stop") -> RowSource:
        """Open splits of several corpora, one after the other; their classes are joined and sorted.

        Raises:
            CorpusError: no corpus at one of them, or no images of a split.
        """
        places: list[str] = []
        files: list[Shard] = []
        groups: list[tuple[int, int, int]] = []
        parts: list[int] = []
        classes: set[str] = set()
        for uri in uris:
            corpus = manifest.read(uri)
            classes.update(corpus.classes)
            before = len(groups)
            for shard in (shard for split in splits for shard in corpus.split(split).shards):
                groups += [(len(files), number, rows) for number, rows in enumerate(shard.row_groups)]
                places.append(storage.join(storage.absolute(uri), shard.path))
                files.append(shard)
            parts.append(len(groups) - before)
        return cls(tuple(places), tuple(groups), tuple(sorted(classes)), tuple(files), tuple(parts), on_damage)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of rows of each row group."""
        return tuple(rows for _, _, rows in self.row_groups)

    def take(self, rows: np.ndarray, columns: tuple[str, ...] = ("image", "label")) -> pa.Table:
        """Return the rows with these numbers, in this order; each row group is read once.

        A row -1 is null in every column. So are the image and the label of a row that `on_damage="skip"` leaves out;
        its id is its place.

        Raises:
            CorpusError: a shard that cannot be read or is not what the manifest says.
            StorageError: the store does not answer.
        """
        sizes = np.array(self.sizes)
        ends = np.cumsum(sizes)
        is_there = rows >= 0
        groups = np.searchsorted(ends, rows, side="right")
        wanted = np.unique(groups[is_there])
        if not len(wanted):
            return pa.table({name: pa.nulls(len(rows), _SCHEMA.field(name).type) for name in columns})
        tables = [self._read(int(group), columns) for group in wanted]
        starts = np.concatenate([[0], np.cumsum(sizes[wanted])])
        at = np.searchsorted(wanted, groups)
        # the place within the tables read, of each row: where its group starts there, plus its place in the group
        places = np.where(is_there, starts[at] + rows - (ends - sizes)[groups], 0)
        return pa.concat_tables(tables).take(pa.array(places, mask=~is_there))

    def label_index(self, labels: pa.ChunkedArray) -> np.ndarray:
        """Return each label's class index, -1 for none."""
        found = pc.index_in(labels, value_set=pa.array(self.classes, pa.string()))
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)

    def _read(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        shard, number, rows = self.row_groups[group]
        try:
            table = self._fetch(shard, number, columns)
        except ShardDamage as error:
            if self.on_damage == "skip":
                return _left_out(self.files[shard].path, number, rows, columns)
            raise _unreadable(self.shards[shard], number, str(error)) from error
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.shards[shard], number, str(error)) from error
        if lacking := [name for name in columns if name not in table.column_names]:
            raise CorpusError(
                f"{self.shards[shard]}: has no column {lacking[0]!r}; prepare its corpus in a format that gives it."
            )
        return pa.table({name: table[name].cast(_SCHEMA.field(name).type) for name in columns})

    def _fetch(self, shard: int, number: int, columns: tuple[str, ...]) -> pa.Table:
        uri, file = self.shards[shard], self.files[shard]
        try:
            return open_shard(uri, file).read(number, columns)
        except ShardDamage:
            if self.on_damage != "refetch":
                raise
        for fetch in range(1, FETCHES - 1):
            time.sleep(fetch * PAUSE_S)
            try:
                return ShardFile(uri, file).read(number, columns)
            except ShardDamage:
                continue
        time.sleep((FETCHES - 1) * PAUSE_S)
        return ShardFile(uri, file).read(number, columns)


def read_rows(
    uri: str, split: str, columns: tuple[str, ...] | None = None, *, batch_size: int = 64
) -> Iterator[pa.RecordBatch]:
    """Yield a split's rows from end to end, in manifest order, at most `batch_size` of a row group at a time.

    Raises:
        CorpusError: no corpus, no images of that split, or a shard that cannot be read or is not what the manifest
            says.
    """
    for shard in manifest.read(uri).split(split).shards:
        where = storage.absolute(storage.join(uri, shard.path))
        for number in range(len(shard.row_groups)):
            try:
                table = open_shard(where, shard).read(number, columns)
            except (ShardDamage, OSError, pa.ArrowException) as error:
                raise _unreadable(where, number, str(error)) from error
            yield from table.to_batches(max_chunksize=batch_size)


def _unreadable(uri: str, number: int, reason: str) -> CorpusError:
    return CorpusError(
        f"{uri}: row group {number} cannot be read: {reason}; `medalign data validate` names all that is damaged,"
        " data.on_damage says what to do about it."
    )


def _left_out(path: str, number: int, rows: int, columns: tuple[str, ...]) -> pa.Table:
    """Return the rows of a damaged row group: nothing is known of them but their place."""
    places = pa.array([f"{path}/{number}/{row}" for row in range(rows)])
    nulls = {name: pa.nulls(rows, _SCHEMA.field(name).type) for name in columns}
    return pa.table({**nulls, **({"id": places} if "id" in columns else {})})
