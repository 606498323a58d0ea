"""A pair loss with a scale and a bias that are trained with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class LearnedLogits(nn.Module):
    """loss(s, t, valid, log_scale=, bias=) with both as weights, each of shape (1,)."""

    def __init__(self, loss: Callable[..., Tensor], *, scale: float, bias: float) -> None:
        super().__init__()
        self._loss = loss
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
        """Return the loss at the present scale and bias."""
        return self._loss(s, t, valid, log_scale=self.log_scale.to(s.dtype), bias=self.bias.to(s.dtype))
