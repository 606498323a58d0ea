"""Folding a frozen batch norm into the convolution before it: the same function, and no running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor


class FoldedPair(NamedTuple):
    """Names within state dicts: our convolution with a bias, and the convolution and norm it is made of."""

    ours: str
    convolution: str
    norm: str


def fold_batch_norms(state: Mapping[str, Tensor], pairs: Iterable[FoldedPair], *, epsilon: float) -> dict[str, Tensor]:
    """Return weight and bias of every folded convolution.

    A batch norm in use is y = gamma (x - mean) / sqrt(var + epsilon) + beta per channel, so that the convolution's
    weight is scaled by s = gamma / sqrt(var + epsilon) and its bias is beta - mean s.

    Raises:
        KeyError: the state lacks a name.
    """
    folded = {}
    for ours, convolution, norm in pairs:
        scale = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + epsilon).rsqrt()
        folded[f"{ours}.weight"] = state[f"{convolution}.weight"] * scale.reshape(-1, 1, 1, 1)
        folded[f"{ours}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded
