"""The gradient norms of a loss's parts, measured now and then: whether an alignment pulls as hard as the words do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medalign.errors import PlanError
from medalign.training.averages import Averages
from medalign_core.ops.draws import draw_seed


class PartNorms:
    """Measures `module.gradient_norms(batch)` at every N-th step, a mean over the step's micro-batches.

    It costs a forward and a backward pass per part of each micro-batch of such a step, and changes nothing of what is
    learnt: the pass that trains draws what it would have drawn.

    Args:
        module: the objective's module.
        device: where figures are.
        every: N; 0 measures never.

    Raises:
        PlanError: the objective's loss has no parts to measure.
    """

    def __init__(self, module: nn.Module, device: torch.device, every: int) -> None:
        self._module: Any = module
        self._every = every
        self._averages = Averages(device)
        self._found: dict[str, float] = {}
        if every and not hasattr(module, "gradient_norms"):
            raise PlanError(
                f"train.part_norms_every={every}: the loss of a {type(module).__name__} has no parts to measure; set 0."
            )

    def is_due(self, step: int) -> bool:
        """Tell whether a step, counted from 0, is measured."""
        return bool(self._every) and (step + 1) % self._every == 0

    def see(self, batch: Any) -> None:
        """Measure one micro-batch, before its forward pass; padding counts nothing."""
        torch.manual_seed(draw_seed(batch.key.seed, "forward", batch.key.step, batch.key.index))
        self._averages.add(batch.weight, self._module.gradient_norms(batch))

    def close(self) -> None:
        """End a measured step. Collective."""
        self._averages.commit()
        self._found = self._averages.reduce()

    def take(self) -> dict[str, float]:
        """Return what the last measured step had, once."""
        found, self._found = self._found, {}
        return found
