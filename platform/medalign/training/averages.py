"""Averages of loss and stats over micro-batches, steps and ranks, kept on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

WEIGHT = "micro-batches"  # beside the sums: how many they are of


class Averages:
    """Weighted means of named scalars. A step's figures count only once the step is committed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._total: Tensor | None = None
        self._pending: Tensor | None = None

    def add(self, weight: float, values: Mapping[str, Tensor]) -> None:
        """Add one micro-batch's figures, weight 0 for padding."""
        self._names = self._names or list(values)
        # a padding micro-batch may hold NaN (a mean over nothing), which 0 * NaN would let through
        row = torch.stack([values[name].detach().to(self._device, torch.float64) for name in self._names])
        row = torch.cat([row * weight if weight else torch.zeros_like(row), row.new_tensor([weight])])
        self._pending = row if self._pending is None else self._pending + row

    def commit(self) -> None:
        """Count what was added since the last commit."""
        if self._pending is not None:
            self._total = self._pending if self._total is None else self._total + self._pending
        self._pending = None

    def forget(self) -> None:
        """Drop what was added since the last commit: a step that was not applied."""
        self._pending = None

    def state(self, *, is_first: bool) -> dict[str, float]:
        """Return the sums over all ranks of what is committed, as `load` takes them. Collective.

        Afterwards the first rank holds them all, here as in a run that loads them.
        """
        if self._total is None:
            return {}
        total = self._total
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        self._total = total if is_first else torch.zeros_like(total)
        return dict(zip([*self._names, WEIGHT], total.tolist(), strict=True))

    def load(self, sums: Mapping[str, float], *, is_first: bool) -> None:
        """Go on from `state()`'s sums."""
        if not sums:
            return
        self._names = [name for name in sums if name != WEIGHT]
        total = torch.tensor([*(sums[name] for name in self._names), sums[WEIGHT]], dtype=torch.float64)
        self._total = (total if is_first else torch.zeros_like(total)).to(self._device)

    def reduce(self) -> dict[str, float]:
        """Return the means over all ranks and start again; {} where nothing was committed on any rank. Collective."""
        total = torch.zeros(len(self._names) + 1, dtype=torch.float64, device=self._device)
        if self._total is not None:
            total += self._total
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        self._total = None
        *sums, weight = total.tolist()
        return {name: value / weight for name, value in zip(self._names, sums, strict=True)} if weight else {}
