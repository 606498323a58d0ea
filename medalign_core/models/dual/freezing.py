"""Frozen towers: no gradient for their weights, and nothing in them that a training mode would change."""

from __future__ import annotations

from torch import nn


def freeze(module: nn.Module) -> nn.Module:
    """Switch a module's gradients and dropout off, in place, and return it.

    A tower that drops activations in training mode would give a cached feature and a fresh one different values, and a
    prompt learner puts whatever it holds into training mode; without dropout the mode means nothing. Batch norms are
    not touched: a tower with any must fold them.
    """
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "dropout", None), float):  # transformers' attention holds a bare number
            part.dropout = 0.0  # type: ignore[assignment]
    return module.requires_grad_(False).eval()
