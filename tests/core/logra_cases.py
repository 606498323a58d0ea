"""Node sets around a latent per sample, and one call of the alignment on them."""

from __future__ import annotations

import torch
from torch import Tensor

from medalign_core.objectives.logra_med.alignment import align
from medalign_core.objectives.logra_med.graphs import MaxGraphConvolutions
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.types import DrawKey

KEY = DrawKey(3, 1, 4)
NAMES = ("image", "answer", "extended")
PLAIN = LoGraMed(neighbours=3, message_passing="none", noise_scale=0.0)
ROWS = 8


def node_sets(count: int = 3, *, rows: int = ROWS, size: int = 12, sigma: float = 2.0, seed: int = 0):
    """One latent per sample, seen `count` times under noise of its own."""
    draws = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, size, generator=draws, dtype=torch.float64)
    names = (*NAMES, "fourth")[:count]
    return {name: latent + sigma * torch.randn(latent.shape, generator=draws, dtype=torch.float64) for name in names}


def new_network(settings: LoGraMed = PLAIN, size: int = 12) -> MaxGraphConvolutions:
    torch.manual_seed(0)
    return MaxGraphConvolutions(size, width=size, layers=2, messages=settings.messages).double()


def run(
    nodes: dict[str, Tensor],
    settings: LoGraMed = PLAIN,
    *,
    valid: Tensor | None = None,
    key: DrawKey = KEY,
    network: MaxGraphConvolutions | None = None,
    training: bool = True,
):
    rows = len(next(iter(nodes.values())))
    valid = torch.ones(rows, dtype=torch.bool) if valid is None else valid
    return align(nodes, valid, key, settings=settings, network=network, training=training)


def leaves(nodes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone().requires_grad_() for name, x in nodes.items()}


def slopes(nodes: dict[str, Tensor], settings: LoGraMed = PLAIN, *, scale: float = 1.0, **more) -> dict[str, Tensor]:
    own = leaves(nodes)
    loss, _ = run(own, settings, **more)
    (loss * scale).backward()
    return {name: x.grad / scale for name, x in own.items()}
