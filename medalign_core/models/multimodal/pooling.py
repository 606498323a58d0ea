"""One vector per text: the mean of its tokens."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32


def pool(states: Float[Tensor, "B L D"], counted: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Return mean over the counted tokens of each row, in float32 at least; 0 for a row without any.

    Tokens that are not counted have no part in it and get a gradient of 0, so that padding a batch further changes
    nothing.
    """
    wide = at_least_float32(states)
    total = wide.masked_fill(~counted[:, :, None], 0.0).sum(dim=1)
    return total / counted.sum(dim=1, keepdim=True).clamp(min=1)
