"""The order of samples: a pure function of (seed, epoch, position), whatever the number of workers.

An epoch permutes the row groups, lays their rows end to end, cuts that line into windows of whole steps and permutes
the rows of each window. The rows left over after the last whole step of an epoch are not seen in that epoch (they
are other rows in the next one). A step is `global_batch` rows: `global_batch / micro_batch` micro-batches of fixed
content. With W workers, worker r computes micro-batches r, r + W, ...; where they do not divide, padding micro-batches
of weight 0 fill the last turn.

With a mixture (mixture.py) the positions of an epoch run on from those of the epoch before it, and the mixture says
which corpus and which of its rows a position is; windows and steps are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from medalign.data.mixture import Mixture
from medalign.data.permuting import line_rows, permutation
from medalign.errors import PlanError


class Window(NamedTuple):
    """Whole steps of one epoch that are permuted and read together: global steps [start, stop)."""

    epoch: int
    start: int
    stop: int


class Slot(NamedTuple):
    """One micro-batch to compute: its step, its place in it, and whether it is padding (weight 0)."""

    step: int
    index: int  # type: ignore[assignment]  # the word of DrawKey; tuple.index is not used
    padding: bool


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of a run.

    Attributes:
        seed: the run's seed.
        row_groups: the number of rows of each row group, in the corpus's order.
        micro_batch: rows of one forward.
        global_batch: rows of one step.
        shuffle_rows: rows permuted together (rounded to whole steps, at least one).
        mixture: how several corpora share the positions; None for one corpus.

    Raises:
        PlanError: the batches do not divide, or the corpus is smaller than one step.
    """

    seed: int
    row_groups: tuple[int, ...]
    micro_batch: int
    global_batch: int
    shuffle_rows: int
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        if self.global_batch % self.micro_batch:
            raise PlanError(
                f"train.global_batch={self.global_batch} is not a multiple of train.micro_batch={self.micro_batch}."
            )
        if self.rows < self.global_batch:
            raise PlanError(
                f"the corpus has {self.rows} rows, fewer than one step of train.global_batch={self.global_batch};"
                " lower it or add data."
            )

    @cached_property
    def rows(self) -> int:
        """Rows of the corpus."""
        return int(sum(self.row_groups))

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps of one epoch."""
        return self.rows // self.global_batch

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step."""
        return self.global_batch // self.micro_batch

    @property
    def window_steps(self) -> int:
        """Steps of one window."""
        return max(1, self.shuffle_rows // self.global_batch)

    def epoch_of(self, step: int) -> int:
        """Return the epoch that a global step belongs to."""
        return step // self.steps_per_epoch

    def windows(self, start: int, stop: int) -> list[Window]:
        """Return the windows that cover the global steps [start, stop), the first and last cut to fit."""
        found = []
        while start < stop:
            epoch, within = divmod(start, self.steps_per_epoch)
            last = min((within // self.window_steps + 1) * self.window_steps, self.steps_per_epoch)
            end = min(epoch * self.steps_per_epoch + last, stop)
            found.append(Window(epoch, start, end))
            start = end
        return found

    def step_rows(self, step: int) -> np.ndarray:
        """Return the row numbers of one global step, (global_batch,) int64: micro-batch m is the m-th equal part."""
        return self._of_step(step, 0)

    def step_epochs(self, step: int) -> np.ndarray:
        """Return how often each row of a step was drawn before, (global_batch,) int64: what its views are keyed by."""
        return self._of_step(step, 1)

    def _of_step(self, step: int, which: int) -> np.ndarray:
        epoch, within = divmod(step, self.steps_per_epoch)
        number, place = divmod(within, self.window_steps)
        return _window(self, epoch, number)[which][place * self.global_batch : (place + 1) * self.global_batch]

    def slots(self, step: int, world: int) -> list[Slot]:
        """Return the slots of a step in the order they are dealt: slot q goes to worker q mod `world`.

        Raises:
            PlanError: more workers than micro-batches.
        """
        if world > self.micro_batches:
            raise PlanError(
                f"train.workers={world} exceeds the {self.micro_batches} micro-batches of a step; lower it or"
                f" raise train.global_batch. {describe_worlds(self.micro_batches)}"
            )
        turns = -(-self.micro_batches // world)
        return [Slot(step, q, q >= self.micro_batches) for q in range(turns * world)]


@lru_cache(maxsize=8)
def _window(order: Order, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, epochs of the rows) of window `number` of an epoch, permuted."""
    low = number * order.window_steps * order.global_batch
    high = min(low + order.window_steps * order.global_batch, order.steps_per_epoch * order.global_batch)
    if order.mixture is None:
        rows = line_rows(np.asarray(order.row_groups), np.arange(low, high), order.seed, "row groups", epoch)
        epochs = np.full(len(rows), epoch, dtype=np.int64)
    else:
        before = epoch * order.steps_per_epoch * order.global_batch
        rows, epochs = order.mixture.draw(np.arange(before + low, before + high), order.row_groups, seed=order.seed)
    shuffled = permutation(len(rows), order.seed, "window", epoch, number)
    rows, epochs = rows[shuffled], epochs[shuffled]
    rows.flags.writeable = epochs.flags.writeable = False  # they are cached
    return rows, epochs


def describe_worlds(micro_batches: int) -> str:
    """Say which numbers of workers keep graphs and micro-batches as they are, and which of them never wait."""
    even = [str(world) for world in range(1, micro_batches + 1) if micro_batches % world == 0]
    return f"1 to {micro_batches} workers can keep graphs and micro-batches ({', '.join(even)} without padding)."
