"""The stream: the same micro-batches through Ray Data, read, decoded and augmented in worker processes.

Ray Data prefetches and computes in the order that `order.py` lays down; it never decides it. A window is one block
of one row; reading it yields its rows; a strict repartition cuts them into blocks of one micro-batch; each is decoded
by one task; `streaming_split` deals them to the ranks in turn. The dealing is not a documented promise, so each rank
checks that the micro-batch it receives is the one due.

Reading claims no CPU. It costs a few per cent of decoding, and Ray Data would set a quarter of the CPUs aside for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionOptions, TaskPoolStrategy

from medalign import storage
from medalign.data.batches import BatchStream
from medalign.data.decode import VIEWS
from medalign.data.quarantine import Holes
from medalign.errors import OrderError
from medalign_core.types import ImageBatch

STATISTICS = "stream.txt"


def execution_options() -> ExecutionOptions:
    """Return the options under which blocks keep their order."""
    return ExecutionOptions(preserve_order=True)


def training_dataset(stream: BatchStream, *, start: int, stop: int) -> ray.data.Dataset:
    """Return a dataset of the micro-batches of the steps [start, stop), dealt in turn to `stream.world` ranks."""
    size, side = stream.order.micro_batch, stream.data.image_size
    context = DataContext.get_current()
    context.execution_options = execution_options()
    context.enable_progress_bars = False
    # a block that is larger would be cut, and a micro-batch is one block
    context.target_max_block_size = max(context.target_max_block_size or 0, 2 * size * VIEWS * 3 * side * side)
    windows = stream.order.windows(start, stop)
    decoder = stream.decoder  # alone: what a task's function holds is unpickled for every task

    def read_windows(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for number in batch["id"]:
            yield from stream.read_window(windows[int(number)])

    def decode_views(block: pa.Table) -> dict[str, np.ndarray]:
        return decoder(block)

    blocks = (
        ray.data.range(len(windows), override_num_blocks=len(windows))
        .map_batches(read_windows, batch_size=1, num_cpus=0, compute=TaskPoolStrategy(size=_readers()))
        .repartition(target_num_rows_per_block=size, strict=True)
    )
    # There is no public way to say that a repartition claims no CPU either. A test sees whether this one still works.
    repartition: Any = blocks._logical_plan.dag
    repartition.ray_remote_args["num_cpus"] = 0
    return blocks.map_batches(decode_views, batch_size=size, batch_format="pyarrow")


def _readers() -> int:
    """Return how many windows may be read at once: one reader feeds about ten CPUs that decode."""
    cpus = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else 0
    return max(2, int(cpus) // 8)


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
