"""Cosine similarity that is 0, with a finite gradient, where a vector has no length."""

from __future__ import annotations

from typing import Any

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
    units: Tensor = _Normalization.apply(vectors, floor) if vectors.requires_grad else _units(vectors, floor)[0]
    return units


def cosine_table(s: Float[Tensor, "*S M D"], t: Float[Tensor, "*S N D"]) -> Float[Tensor, "*S M N"]:
    """Return cos(s_m, t_n) for all pairs, in [-1, 1]; 0 where either vector has no length (see `normalize`)."""
    return normalize(s) @ normalize(t).transpose(-1, -2)


def at_least_float32(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return `x` in float32, or as it is when wider: half precision is for towers, not for affinities."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _units(vectors: Tensor, floor: Tensor | float) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    inverse = torch.where(length > floor, length.reciprocal(), 0.0)
    return vectors * inverse, inverse


class _Normalization(torch.autograd.Function):
    """Written out because what it is given is large, feature maps above all: a third of the passes that autograd takes.

    With u = x / |x| the gradient is (g - u <g, u>) / |x|; where 1 / |x| stands at 0, both are 0.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, floor: Tensor | float) -> Tensor:
        units, inverse = _units(vectors, floor)
        ctx.save_for_backward(vectors, units, inverse)
        return units

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None]:
        vectors, units, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: 1 / |x| as a function of x
            length = torch.where(inverse > 0, vectors, 1.0).norm(dim=-1, keepdim=True)
            inverse = torch.where(inverse > 0, length.reciprocal(), 0.0)
        along = torch.linalg.vecdot(incoming, units)[..., None]
        return torch.addcmul(incoming, units, along, value=-1.0) * inverse, None
