"""map_corpus: every image of a split through a model, on Ray Data: decoded by tasks, mapped by a pool of actors."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from numpy import ndarray

from medalign import cluster, storage
from medalign.data.decode import decode_image
from medalign.data.reader import RowSource
from medalign.errors import MedAlignError

KEPT = ("id", "group", "label")
PLACE, PIXELS = "place", "pixels"
BROKEN = (OSError, ValueError, SyntaxError)  # what Pillow raises for broken bytes
_LOADED = pa.schema([(PLACE, pa.int64()), *((name, pa.string()) for name in KEPT), (PIXELS, pa.binary())])


class Mapper(Protocol):
    """What an actor holds: built once from keyword arguments, then called with batch after batch of images."""

    def __call__(self, images: UInt8[ndarray, "B 3 S S"]) -> dict[str, ndarray]:
        """Return columns of B rows: one-dimensional, or (B, D) for a list of D numbers."""


@dataclass(frozen=True, kw_only=True)
class MappedFile:
    """One file of the result, its rows in the corpus's order; `unreadable` of them hold null in the mapped columns."""

    path: str
    rows: int
    unreadable: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """How a split is mapped.

    Attributes:
        mapper: the class that each actor builds.
        arguments: its keyword arguments: plain values and URIs, for they travel.
        size: images are decoded to (3, size, size) by the deterministic test transform.
        actors: how many hold the mapper; None means one per GPU, or one where there is none.
        batch: images of one call.
        file_rows: rows of one file.
    """

    mapper: type[Mapper]
    arguments: dict[str, Any]
    size: int
    actors: int | None = None
    batch: int = 64
    file_rows: int = 8192


def map_corpus(corpus: str, split: str, mapping: Mapping, *, out: str) -> tuple[MappedFile, ...]:
    """Map every image of a split and write the columns beside id, group and label to `<out>/<split>/part-*.parquet`.

    Rows keep the corpus's order, whatever the number of actors, and every row is there: an image that cannot be
    decoded has null in the mapped columns.

    Args:
        corpus: the corpus's URI.
        split: which split.
        mapping: the mapper and its sizes.
        out: URI of the result.

    Raises:
        CorpusError: no such corpus or split, or a shard that cannot be read.
        StorageError: a place cannot be reached.
        MedAlignError: a task failed, or rows were lost or came out of order.
    """
    from ray.exceptions import RayError

    source = RowSource.open(corpus, (split,))
    out = storage.absolute(out)
    cluster.ensure_ray()
    files: list[MappedFile] = []
    try:
        with quietly():
            rows = _dataset(source, mapping, out=out, split=split).iter_rows()
            files.extend(MappedFile(**json.loads(row["record"])) for row in rows)
    except RayError as error:
        raise cluster.own_error(error, doing=f"mapping the {split} split of {corpus}") from error
    if (found := sum(file.rows for file in files)) != sum(source.sizes):
        raise MedAlignError(f"{found} of {sum(source.sizes)} rows of {corpus}, {split}, came back.")
    return tuple(files)


def _dataset(source: RowSource, mapping: Mapping, *, out: str, split: str) -> Any:
    """Row groups -> rows with pixels -> rows with mapped columns -> files."""
    import ray
    import ray.data

    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors = mapping.actors or max(1, gpus)
    write = partial(save, out=out, split=split, file_rows=mapping.file_rows)
    return (
        ray.data.range(len(source.row_groups), override_num_blocks=len(source.row_groups))
        .map_batches(partial(load, source=source, size=mapping.size), batch_size=1)
        .map_batches(
            MapperActor,
            fn_constructor_kwargs={"mapping": mapping},
            batch_size=mapping.batch,
            batch_format="pyarrow",
            concurrency=actors,
            num_cpus=1,
            num_gpus=min(1.0, gpus / actors) if gpus else 0,
        )
        .repartition(target_num_rows_per_block=mapping.file_rows, strict=True)
        .map_batches(write, batch_size=None, batch_format="pyarrow")
    )


def load(batch: dict[str, ndarray], *, source: RowSource, size: int) -> Iterator[pa.Table]:
    """Yield each row group (`id`: its number) as rows of place, `KEPT` and pixels; null pixels for a broken image."""
    starts = np.concatenate([[0], np.cumsum(source.sizes)])
    for group in batch["id"].tolist():
        numbers = np.arange(starts[group], starts[group + 1])
        rows = source.take(numbers, columns=(*KEPT, "image"))
        pixels = [_pixels(data, size) for data in rows["image"].to_pylist()]
        yield pa.table([numbers, *(rows[name] for name in KEPT), pa.array(pixels, pa.binary())], schema=_LOADED)


class MapperActor:
    """The shell of a mapper within an actor: pixels in, its columns out, null where there are no pixels."""

    def __init__(self, mapping: Mapping) -> None:
        self.size = mapping.size
        self.mapper = mapping.mapper(**mapping.arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Map a block of rows."""
        pixels = block[PIXELS].to_pylist()
        good = np.array([data is not None for data in pixels])
        # Holes are mapped as the black image, so that the columns are known even where a block has nothing else.
        blank = bytes(3 * self.size * self.size)
        whole = np.frombuffer(b"".join(data or blank for data in pixels), dtype=np.uint8)
        images = whole.reshape(len(pixels), 3, self.size, self.size).copy()
        columns = {name: _column(values, good) for name, values in self.mapper(images).items()}
        return pa.table({**{name: block[name] for name in (PLACE, *KEPT)}, "readable": good, **columns})


def save(block: pa.Table, *, out: str, split: str, file_rows: int) -> pa.Table:
    """Write one file of the result and return its record."""
    places = block[PLACE].to_numpy()
    start = int(places[0])
    if start % file_rows or not np.array_equal(places, np.arange(start, start + len(places))):
        raise MedAlignError(f"rows from {start} of {split} came out of order.")
    sink = io.BytesIO()
    pq.write_table(block.drop_columns([PLACE, "readable"]), sink, compression="zstd")
    data, path = sink.getvalue(), f"{split}/part-{start // file_rows:05d}.parquet"
    storage.write_bytes(storage.join(out, path), data)
    file = MappedFile(
        path=path,
        rows=len(places),
        unreadable=int((~block["readable"].to_numpy()).sum()),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return pa.table({"record": [json.dumps(asdict(file))]})


@contextmanager
def quietly() -> Iterator[None]:
    """Run Ray Data in order and without its progress bars and plans, and leave its context as it was."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports every run at INFO
    context = ray.data.DataContext.get_current()
    before = (context.enable_progress_bars, context.print_on_execution_start, context.execution_options.preserve_order)
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        context.execution_options.preserve_order = before[2]


def _pixels(data: bytes, size: int) -> bytes | None:
    try:
        return decode_image(data, size).tobytes()
    except BROKEN:
        return None


def _column(values: ndarray, good: ndarray) -> pa.Array:
    """Return a mapped column, null where the image was not good."""
    if values.ndim == 1:
        return pa.array(values, mask=~good)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(~good))
