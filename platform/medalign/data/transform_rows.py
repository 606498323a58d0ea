"""map_rows: rows of a split, words and encoded images, through a model: in this process or by a pool of actors on Ray.

What comes back is small (texts), so it comes back to the caller, in the order of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from medalign import cluster
from medalign.data.reader import RowSource
from medalign.data.transform import quietly
from medalign.errors import MedAlignError

IMAGE, OTHER = "image", "other_image"


class RowMapper(Protocol):
    """What maps rows: built once from keyword arguments, then called with block after block."""

    def __call__(self, rows: pa.Table) -> dict[str, list[str]]:
        """Return columns of texts, one per row."""


@dataclass(frozen=True, kw_only=True)
class RowMapping:
    """How rows are mapped.

    Attributes:
        mapper: the class that is built where rows are mapped.
        arguments: its keyword arguments: plain values and URIs, for they travel.
        columns: what it is given of each row, beside the image.
        block: rows of one call.
        actors: how many hold the mapper; 0 maps in this process, without Ray.
    """

    mapper: type[RowMapper]
    arguments: dict[str, Any]
    columns: tuple[str, ...]
    block: int = 64
    actors: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Rows of a source, cut into blocks; small and picklable.

    Attributes:
        source: where they are.
        rows: (N,) their numbers.
        others: (N,) the rows whose image each is given beside its own, as `other_image`; None for none.
        columns: beside the image.
        size: rows of a block.
    """

    source: RowSource
    rows: np.ndarray
    others: np.ndarray | None
    columns: tuple[str, ...]
    size: int

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-len(self.rows) // self.size)

    def read(self, number: int) -> pa.Table:
        """Return a block's rows."""
        part = slice(number * self.size, (number + 1) * self.size)
        found = self.source.take(self.rows[part], (*self.columns, IMAGE))
        if self.others is None:
            return found
        return found.append_column(OTHER, self.source.take(self.others[part], (IMAGE,))[IMAGE])


def map_rows(
    source: RowSource,
    rows: np.ndarray,
    mapping: RowMapping,
    *,
    others: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[str]]:
    """Return the mapped columns of some rows of a source, in the order of `rows`.

    Args:
        source: an opened split.
        rows: (N,) numbers of rows.
        mapping: the mapper and its sizes.
        others: (N,) the rows whose image each row is given too, as `other_image`.
        progress: called after each block with the number of rows done and of all.

    Raises:
        CorpusError: a shard that cannot be read.
        MedAlignError: a task failed, or blocks came out of order.
    """
    blocks = Blocks(source=source, rows=rows, others=others, columns=mapping.columns, size=mapping.block)
    mapped = _on_ray(blocks, mapping) if mapping.actors else _here(blocks, mapping)
    found: dict[str, list[str]] = {}
    done = 0
    for columns in mapped:
        for name, texts in columns.items():
            found.setdefault(name, []).extend(texts)
        done = min(done + mapping.block, len(rows))
        if progress is not None:
            progress(done, len(rows))
    if any(len(texts) != len(rows) for texts in found.values()):
        raise MedAlignError(f"{mapping.mapper.__name__} lost rows: {len(rows)} went in.")
    return found


def _here(blocks: Blocks, mapping: RowMapping) -> Iterator[dict[str, list[str]]]:
    mapper = mapping.mapper(**mapping.arguments)
    for number in range(blocks.count):
        yield mapper(blocks.read(number))


def _on_ray(blocks: Blocks, mapping: RowMapping) -> Iterator[dict[str, list[str]]]:
    import ray
    import ray.data
    from ray.exceptions import RayError

    cluster.ensure_ray()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    try:
        with quietly():
            dataset = ray.data.range(blocks.count, override_num_blocks=blocks.count).map_batches(
                RowActor,
                fn_constructor_kwargs={"blocks": blocks, "mapping": mapping},
                batch_size=1,
                concurrency=mapping.actors,
                num_cpus=1,
                num_gpus=min(1.0, gpus / mapping.actors) if gpus else 0,
            )
            for number, row in enumerate(dataset.iter_rows()):
                if row["block"] != number:
                    raise MedAlignError(f"block {row['block']} came where {number} was due.")
                yield json.loads(row["texts"])
    except RayError as error:
        raise cluster.own_error(error, doing="answering") from error


class RowActor:
    """The shell of a mapper within an actor: a block's number in, its texts out."""

    def __init__(self, blocks: Blocks, mapping: RowMapping) -> None:
        self.blocks = blocks
        self.mapper = mapping.mapper(**mapping.arguments)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Map the one block that a batch names."""
        (number,) = batch["id"].tolist()
        texts = json.dumps(self.mapper(self.blocks.read(number)))
        return {"block": batch["id"], "texts": np.array([texts], dtype=object)}
