"""Samples of a micro-batch that no alignment can tell apart, since they share an image or an answer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def first_of_kind(valid: Bool[Tensor, " B"], *ids: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Return the valid rows that share none of their ids with an earlier row that is kept, in the order of the rows.

    Rows that are kept differ from each other in every kind of id. A negative id is unknown and shared with nobody.

    Args:
        valid: False for a row that is not there; it is never kept and excludes nobody.
        ids: one tensor for each kind of id, e.g. image ids and answer ids.
    """
    seen: set[tuple[int, int]] = set()
    kept = []
    for present, *row in zip(valid.tolist(), *(kind.tolist() for kind in ids), strict=True):
        own = {(kind, number) for kind, number in enumerate(row) if number >= 0}
        kept.append(present and not own & seen)
        if kept[-1]:
            seen |= own
    return torch.tensor(kept, dtype=torch.bool, device=valid.device)


def duplicate_rate(valid: Bool[Tensor, " B"], kept: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return the share of valid rows that are not kept, 0 without valid rows."""
    return (valid & ~kept).sum() / valid.sum().clamp(min=1)
