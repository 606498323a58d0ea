"""Holes: rows that could not be read. Their pixels reach no network and no loss."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def stand_ins(valid: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return for each row the row whose images to encode: itself where valid, else a valid row, in turn.

    A batch norm mixes all rows of a batch, so a black image in a hole would change the features of the others. With a
    stand-in the shapes stay fixed and the statistics are those of real images; what was in the hole cannot matter.
    Where no row is valid each row stands for itself. No value leaves the device.
    """
    order = torch.argsort(~valid, stable=True)  # valid rows first
    rank = torch.cumsum(~valid, dim=0) - 1  # number of a hole among the holes
    taken = order[rank.clamp(min=0) % valid.sum().clamp(min=1)]
    own = torch.arange(len(valid), device=valid.device)
    return torch.where(valid | ~valid.any(), own, taken)
