"""LARS: a layer's step has a length in proportion to its weights, so that large batches can take large rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LayerwiseAdaptiveRate(torch.optim.Optimizer):
    """LARS (You et al. 2017), with the momentum of the scaled gradient.

    For a weight w with gradient g:  d = g + weight_decay w;  where the group adapts and neither length is 0,
    d <- trust |w| / |d| d;  buffer <- momentum buffer + d;  w <- w - lr buffer.

    Args:
        groups: parameter groups, each with `adapts` and `weight_decay`.
        lr: the rate.
        momentum: in [0, 1).
        trust: the length of a step at rate 1, relative to the weight's.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, trust: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "adapts": True}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step for every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        direction = gradient + group["weight_decay"] * weight
        if group["adapts"]:
            own, length = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(direction)
            direction = direction * torch.where((own > 0) & (length > 0), group["trust"] * own / length, 1.0)
        if group["momentum"]:
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            direction = state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
        weight.sub_(direction, alpha=group["lr"])
