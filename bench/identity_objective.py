"""Objectives that compute nothing: what is left of a run's time is the way of the data, or what is added to a sleep."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Identity:
    """No settings."""

    def build(self, model: nn.Module) -> nn.Module:
        """Return the module; the encoder is not used."""
        return IdentityModule()


class IdentityModule(nn.Module):
    """The mean pixel times one trained number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, stats)."""
        return (batch.images.float().mean() / 255 * self.scale).sum(), {}


@dataclass(frozen=True, kw_only=True)
class Sleeping:
    """A step of a known length that needs no core.

    Attributes:
        seconds: of one forward.
    """

    seconds: float = 0.5

    def build(self, model: nn.Module) -> nn.Module:
        """Return the module; the encoder is not used."""
        module = IdentityModule()
        module.register_forward_pre_hook(lambda *_: time.sleep(self.seconds))
        return module
