"""Optimizer steps at ZeRO stage 0: clipped, and never taken with a gradient that is not finite."""

from __future__ import annotations

import math

import torch


class GuardedSteps:
    """Clips and checks plain fp32 gradients at ZeRO stage 0, where DeepSpeed itself would step on a NaN."""

    def __init__(self, optimizer: torch.optim.Optimizer, clip: float) -> None:
        self.applied, self.norm = True, math.nan
        self._optimizer, self._clip, self._step = optimizer, clip, optimizer.step
        optimizer.step = self._guarded  # type: ignore[method-assign, assignment]

    def _guarded(self, closure: None = None) -> None:
        gradients = [p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.norm = float(norm)
        self.applied = math.isfinite(self.norm)
        if not self.applied:
            return
        if self._clip > 0:
            torch.nn.utils.clip_grads_with_norm_(
                [p for group in self._optimizer.param_groups for p in group["params"]], self._clip, norm
            )
        self._step()
