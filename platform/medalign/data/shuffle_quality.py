"""How well an order shuffles, measured: how far rows travel, and how far neighbours part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medalign.data.order import Order
from medalign.data.reader import RowSource

EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The figures of one `shuffle_rows`, means over a few epochs.

    Attributes:
        shuffle_rows: rows permuted together, rounded to whole steps.
        displacement: how far a row travels from its place in the corpus, as a share of all rows; 1/3 is a uniform
            shuffle.
        parting: how far two neighbours of the corpus are from each other in the epoch, as a share of all rows; 1/3 is
            a uniform shuffle.
        row_groups: different row groups that one micro-batch holds rows of.
        uniform_row_groups: the same of a uniform shuffle.
    """

    shuffle_rows: int
    displacement: float
    parting: float
    row_groups: float
    uniform_row_groups: float


def measure(
    row_groups: Sequence[int], shuffle_rows: int, *, micro_batch: int, global_batch: int, seed: int = 0
) -> Quality:
    """Measure an order.

    Args:
        row_groups: rows of each row group.
        shuffle_rows: as `data.shuffle_rows`.
        micro_batch: rows of a micro-batch.
        global_batch: rows of a step.
        seed: the run's.

    Raises:
        PlanError: the batches do not divide, or the corpus is smaller than one step.
    """
    order = Order(
        seed=seed,
        row_groups=tuple(row_groups),
        micro_batch=micro_batch,
        global_batch=global_batch,
        shuffle_rows=shuffle_rows,
    )
    steps = order.steps_per_epoch
    lines = [
        np.concatenate([order.step_rows(epoch * steps + step) for step in range(steps)]) for epoch in range(EPOCHS)
    ]
    uniform = np.random.default_rng(seed).permutation(order.rows)[: len(lines[0])]
    owner = np.repeat(np.arange(len(row_groups)), row_groups)
    return Quality(
        shuffle_rows=min(order.window_steps, steps) * global_batch,
        displacement=float(np.mean([np.abs(line - np.arange(len(line))).mean() for line in lines]) / order.rows),
        parting=float(np.mean([_parting(line, order.rows) for line in lines]) / order.rows),
        row_groups=float(np.mean([_spread(owner[line], micro_batch) for line in lines])),
        uniform_row_groups=float(_spread(owner[uniform], micro_batch)),
    )


def measure_windows(uri: str, *, micro_batch: int, global_batch: int) -> list[Quality]:
    """Measure the training split of a corpus for windows of one step, of 512 rows and so on, and of the whole epoch.

    Raises:
        CorpusError: no corpus, or no training split.
        PlanError: the batches do not divide, or the split is smaller than one step.
    """
    sizes = RowSource.open(uri, ("train",)).sizes
    rows = sum(sizes)
    windows = [global_batch, *(size for size in (512, 2048, 4096, 8192, 32768) if global_batch < size < rows), rows]
    return [measure(sizes, size, micro_batch=micro_batch, global_batch=global_batch) for size in windows]


def _parting(line: np.ndarray, rows: int) -> float:
    """Return the mean distance within the epoch of rows that are neighbours in the corpus."""
    place = np.full(rows, -1)
    place[line] = np.arange(len(line))
    both = (place[:-1] >= 0) & (place[1:] >= 0)
    return float(np.abs(np.diff(place))[both].mean())


def _spread(owners: np.ndarray, micro_batch: int) -> float:
    parts = owners[: len(owners) // micro_batch * micro_batch].reshape(-1, micro_batch)
    return float(np.mean([len(np.unique(part)) for part in parts]))
