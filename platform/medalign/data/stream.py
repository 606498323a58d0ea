"""The stream: the same micro-batches through Ray Data, read, decoded and augmented in worker processes.

Ray Data prefetches and computes in the order that `order.py` lays down; it never decides it. A window is one row, which
one task reads. A few micro-batches, encoded, are one row too, of lists; one task decodes them, and each comes out as
one row and one block, which nothing can cut; `streaming_split` deals those to the ranks in turn. The dealing is not a
documented promise, so each rank checks that the micro-batch it receives is the one due.

Several micro-batches a task, because Ray Data looks for finished tasks ten times a second: a core waits meanwhile.

Reading claims no CPU. It costs a few per cent of decoding, and Ray Data would set a quarter of the CPUs aside for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionOptions, TaskPoolStrategy

from medalign import storage
from medalign.data.batches import Arrays, Batch, BatchStream
from medalign.data.quarantine import Holes
from medalign.errors import OrderError

STATISTICS = "stream.txt"
TASK_BYTES = 128 * 1024 * 1024


def execution_options() -> ExecutionOptions:
    """Return the options under which blocks keep their order."""
    return ExecutionOptions(preserve_order=True)


def training_dataset(stream: BatchStream, *, start: int, stop: int) -> ray.data.Dataset:
    """Return a dataset of the micro-batches of the steps [start, stop), dealt in turn to `stream.world` ranks."""
    windows = stream.order.windows(start, stop)
    decoder = stream.decoder  # alone: what a task's function holds is unpickled for every task
    size, together = stream.order.micro_batch, _together(stream)

    def read_windows(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for number in batch["id"]:
            for block in stream.read_window(windows[int(number)], together=together):
                yield fold(block)

    def decode_views(row: pa.Table) -> Iterator[Arrays]:
        block = unfold(row)
        for low in range(0, len(block), size):
            yield {name: _alone(values) for name, values in decoder(block.slice(low, size)).items()}

    with _one_row_a_block():
        return (
            ray.data.range(len(windows), override_num_blocks=len(windows))
            .map_batches(read_windows, batch_size=1, num_cpus=0, compute=TaskPoolStrategy(size=_readers()))
            .map_batches(decode_views, batch_size=1, batch_format="pyarrow")
        )


def placeholder() -> ray.data.Dataset:
    """Return what stands for a training dataset until the number of workers is known, which it is made for."""
    return ray.data.range(1)


def fold(block: pa.Table) -> pa.Table:
    """Return a block of B rows as one row of lists of B; nothing is copied."""
    lists = {}
    for name, column in zip(block.column_names, block.combine_chunks().columns, strict=True):
        values = column.chunk(0)
        lists[name] = pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)
    return pa.table(lists)


def unfold(row: pa.Table) -> pa.Table:
    """Return the block that was folded into one row."""
    return pa.table({name: row[name].combine_chunks().flatten() for name in row.column_names})


def _alone(values: np.ndarray) -> np.ndarray:
    """Return an array as the only row of a column: a tensor, or for text and ragged lists a list."""
    if values.dtype != object:
        return values[None]
    row = np.empty(1, dtype=object)
    row[0] = values.tolist()
    return row


@contextmanager
def _one_row_a_block() -> Iterator[None]:
    """Make datasets whose rows are blocks of their own, without progress bars; a dataset keeps its context."""
    context = DataContext.get_current()
    before = (context.execution_options, context.enable_progress_bars, context.target_max_block_size)
    context.execution_options, context.enable_progress_bars = execution_options(), False
    context.target_max_block_size = 1  # byte: a block is closed as soon as it holds a row
    try:
        yield
    finally:
        context.execution_options, context.enable_progress_bars, context.target_max_block_size = before


def _together(stream: BatchStream) -> int:
    """Return how many micro-batches one task decodes: as many as fill a block of Ray Data's usual size, at most 16."""
    one = stream.order.micro_batch * stream.decoder.row_bytes
    return min(max(TASK_BYTES // one, 1), 16)


def _readers() -> int:
    """Return how many windows may be read at once: one reader feeds about ten CPUs that decode."""
    cpus = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else 0
    return max(2, int(cpus) // 8)


def receive(
    shard: Any, stream: BatchStream, *, rank: int, start: int, stop: int, holes: Holes | None = None
) -> Iterator[Batch]:
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
    arrived = shard.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=2)
    for due, row in zip(stream.due(rank, start=start, stop=stop), arrived, strict=False):
        try:
            batch = stream.batch({name: values[0] for name, values in row.items()}, due, holes)
        except OrderError as error:
            raise OrderError(f"rank {rank}: {error}") from error
        yield batch


def write_statistics(shard: Any, run: str) -> None:
    """Write into a run's folder what Ray Data did for it: each operator's tasks, blocks, times and waiting."""
    storage.write_bytes(storage.join(run, STATISTICS), shard.stats().encode())
