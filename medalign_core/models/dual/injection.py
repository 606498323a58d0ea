"""Mixing vectors into the context positions at the input of one text block (TCP's class-aware tokens)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.models.dual.encoder import CONTEXT_START, Injection


def inject(hidden: Float[Tensor, "P L W"], layer: int, injection: Injection | None) -> Float[Tensor, "P L W"]:
    """Return the input of block `layer`: `hidden`, with the injection's positions mixed if this is its block."""
    if injection is None or injection.layer != layer:
        return hidden
    stop = CONTEXT_START + injection.vectors.shape[1]
    seen = hidden[:, CONTEXT_START:stop]
    mixed = (1 - injection.weight) * seen + injection.weight * injection.vectors.to(hidden.dtype)
    return torch.cat((hidden[:, :CONTEXT_START], mixed, hidden[:, stop:]), dim=1)


def check_injection(injection: Injection | None, embeddings: Float[Tensor, "P L W"], layers: int) -> None:
    """Check that an injection fits prompts and tower.

    Raises:
        ValueError: there is no such block, the weight is outside [0, 1], or the vectors fit neither the prompts nor
            the positions between start and end token.
    """
    if injection is None:
        return
    if not 0 <= injection.layer < layers:
        raise ValueError(f"the injection's layer must be in [0, {layers}), got {injection.layer}.")
    if not 0 <= injection.weight <= 1:
        raise ValueError(f"the injection's weight must be in [0, 1], got {injection.weight}.")
    prompts, length, width = embeddings.shape
    rows, count, size = injection.vectors.shape
    if (rows, size) != (prompts, width) or count > length - CONTEXT_START - 1:
        raise ValueError(
            f"the injection's vectors must be ({prompts}, n <= {length - CONTEXT_START - 1}, {width}), "
            f"got {tuple(injection.vectors.shape)}."
        )
