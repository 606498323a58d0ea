"""What a module remembers from step to step that no gradient changes: running statistics, and what it carries.

Both follow one way: each micro-batch leaves a record, and at the end of a step all ranks' records, in the order of the
micro-batches' index, change the one copy that all ranks share.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medalign.training.running_statistics import RunningStatistics
from medalign_core.objectives.carried import Carries


class StepMemory:
    """The running statistics of a module, and the state it carries if it does.

    Args:
        module: that trains; it may be one that `Carries`.
        whole: gives a context in which every weight of the module is whole on this rank, and after which what rank 0
            wrote into a weight is every rank's.
    """

    def __init__(self, module: nn.Module, whole: Callable[[], AbstractContextManager]) -> None:
        self._statistics = RunningStatistics(module)
        self._carrier = module if isinstance(module, Carries) else None
        self._whole = whole
        self._records: list[tuple[int, Tensor]] = []

    def record(self, index: int) -> None:
        """Keep what the forward of micro-batch `index` (its place in the step) left."""
        self._statistics.record(index)
        if self._carrier is not None:
            self._records.append((index, self._carrier.record().detach().float()))

    def combine(self, micro_batches: int) -> None:
        """End a step that was applied. Collective."""
        self._statistics.combine(micro_batches)
        if self._carrier is None:
            return
        table = self._gather(micro_batches)
        with torch.no_grad(), self._whole():
            self._carrier.end_step(table)

    def discard(self) -> None:
        """Forget a step that was not applied."""
        self._statistics.discard()
        self._records.clear()

    def state(self) -> dict[str, Tensor]:
        """Return all of it as named fp32 tensors: what a checkpoint holds beside the trained weights."""
        carried = {} if self._carrier is None else self._carrier.carried()
        return {**self._statistics.state(), **{name: value.detach().clone() for name, value in carried.items()}}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set all of it from `state()`'s tensors. Collective."""
        self._statistics.load(tensors)
        if self._carrier is not None:
            with torch.no_grad(), self._whole():
                self._carrier.load_carried({name: tensors[name] for name in self._carrier.carried()})

    def _gather(self, micro_batches: int) -> Tensor:
        """Return the (A, n) records of all ranks; every rank has at least one of them."""
        table = torch.stack([torch.zeros_like(self._records[0][1])] * micro_batches)
        for index, values in self._records:
            table[index] = values
        self._records.clear()
        if table.numel() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(table)
        return table
