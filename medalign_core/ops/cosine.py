"""Cosine similarity that is 0, with a finite gradient, where a vector has no length."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def normalize(vectors: Float[Tensor, "*S D"], *, floor: Float[Tensor, "*S 1"] | float = 1e-12) -> Float[Tensor, "*S D"]:
    """Return vectors / |vectors| along the last axis; vectors not longer than `floor` become exactly 0.

    The gradient of such a vector is 0 as well: it has no direction, so it may not pull on anything. (Dividing by
    max(|x|, eps) gives it the gradient 1/eps, which is finite and yet ruins a step.)

    Args:
        vectors: any floating type; computed in that type.
        floor: length up to which a vector counts as zero, >= 0; a tensor gives each vector its own.
    """
    squared = vectors.square().sum(dim=-1, keepdim=True)
    # sqrt only ever sees a positive number: where() alone would still send 0 * inf = nan through the unused branch
    length = torch.where(squared > 0, squared, 1.0).sqrt()
    has_length = (squared > 0) & (length.detach() > floor)
    return vectors * torch.where(has_length, length.reciprocal(), 0.0)


def cosine_table(s: Float[Tensor, "*S M D"], t: Float[Tensor, "*S N D"]) -> Float[Tensor, "*S M N"]:
    """Return cos(s_m, t_n) for all pairs, in [-1, 1]; 0 where either vector has no length (see `normalize`)."""
    return normalize(s) @ normalize(t).transpose(-1, -2)


def at_least_float32(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return `x` in float32, or as it is when wider: half precision is for towers, not for affinities."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
