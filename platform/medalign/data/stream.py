"""The stream: the same micro-batches through Ray Data, read, decoded and augmented in worker processes.

Ray Data prefetches and computes in the order that `order.py` lays down; it never decides it. A window is one block
of one row; reading it yields its rows; a strict repartition cuts them into blocks of one micro-batch; each is decoded
by one task; `streaming_split` deals them to the ranks in turn. The dealing is not a documented promise, so each rank
checks that the micro-batch it receives is the one due.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionOptions

from medalign import storage
from medalign.data.batches import BatchStream
from medalign.data.quarantine import Holes
from medalign.errors import OrderError
from medalign_core.types import ImageBatch

STATISTICS = "stream.txt"


def execution_options() -> ExecutionOptions:
    """Return the options under which blocks keep their order."""
    return ExecutionOptions(preserve_order=True)


def training_dataset(stream: BatchStream, *, start: int, stop: int) -> ray.data.Dataset:
    """Return a dataset of the micro-batches of the steps [start, stop), dealt in turn to `stream.world` ranks."""
    context = DataContext.get_current()
    context.execution_options = execution_options()
    context.enable_progress_bars = False
    windows = stream.order.windows(start, stop)
    size = stream.order.micro_batch

    def read_windows(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for number in batch["id"]:
            yield from stream.read_window(windows[int(number)])

    decoder = stream.decoder  # alone: what a task's function holds is unpickled for every task

    def decode_views(block: pa.Table) -> dict[str, np.ndarray]:
        return decoder(block)

    return (
        ray.data.range(len(windows), override_num_blocks=len(windows))
        .map_batches(read_windows, batch_size=1)
        .repartition(target_num_rows_per_block=size, strict=True)
        .map_batches(decode_views, batch_size=size, batch_format="pyarrow")
    )


def receive(
    shard: Any, stream: BatchStream, *, rank: int, start: int, stop: int, holes: Holes | None = None
) -> Iterator[ImageBatch]:
    """Yield one rank's micro-batches from its dataset shard, each checked against the slot that is due.

    Args:
        shard: the rank's part of a `training_dataset`.
        stream: what the dataset was made from.
        rank: this worker.
        start: the first step of the dataset,
        stop: and the one after its last.
        holes: takes note of the rows that could not be read.

    Raises:
        OrderError: a micro-batch out of turn.
        QuarantineError: more bad rows than the budget allows.
    """
    arrived = shard.iter_batches(batch_size=stream.order.micro_batch, batch_format="numpy", prefetch_batches=2)
    for due, arrays in zip(stream.due(rank, start=start, stop=stop), arrived, strict=False):
        try:
            batch = stream.batch(arrays, due, holes)
        except OrderError as error:
            raise OrderError(f"rank {rank}: {error}") from error
        yield batch


def write_statistics(shard: Any, run: str) -> None:
    """Write into a run's folder what Ray Data did for it: each operator's tasks, blocks, times and waiting."""
    storage.write_bytes(storage.join(run, STATISTICS), shard.stats().encode())
