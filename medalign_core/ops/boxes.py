"""Boxes as (left, top, right, bottom): areas, overlaps, and the suppression of those that overlap a better one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def box_areas(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Return width times height; 0 for a box whose right is not right of its left."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def box_iou(first: Float[Tensor, "N 4"], second: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Return intersection over union of every pair, in [0, 1]; 0 for two empty boxes."""
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    opposite = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = box_areas(torch.cat([corner, opposite], dim=-1))
    either = box_areas(first)[:, None] + box_areas(second)[None, :] - both
    return both / either.clamp(min=torch.finfo(both.dtype).tiny)


def generalized_iou(first: Float[Tensor, "N 4"], second: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """Return IoU - (hull - union) / hull of each pair, in (-1, 1] (Rezatofighi et al. 2019, algorithm 1).

    The hull is the smallest box around both. It falls with the distance of boxes that do not meet, so it has a gradient
    where IoU has none. A pair with an empty hull gives 0.
    """
    corner = torch.maximum(first[:, :2], second[:, :2])
    opposite = torch.minimum(first[:, 2:], second[:, 2:])
    both = box_areas(torch.cat([corner, opposite], dim=-1))
    union = box_areas(first) + box_areas(second) - both
    low, high = torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:])
    hull = box_areas(torch.cat([low, high], dim=-1))
    tiny = torch.finfo(hull.dtype).tiny
    found = both / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
    return torch.where(hull > 0, found, torch.zeros_like(found))


def suppress(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], classes: Int[Tensor, " N"], *, most_iou: float
) -> Int[Tensor, " K"]:
    """Return which boxes stay when each removes those of its class that it overlaps more than `most_iou`, best first.

    Greedy non-maximum suppression. Boxes of different classes leave each other alone. The result is in falling order
    of the scores; of equal ones the earlier comes first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    overlap = box_iou(boxes[order], boxes[order]) > most_iou
    removes = (overlap & (classes[order][:, None] == classes[order][None, :])).triu(diagonal=1).cpu().numpy()
    stays = [True] * len(order)
    for place in range(len(order)):
        if stays[place]:
            for beaten in removes[place].nonzero()[0]:
                stays[beaten] = False
    return order[torch.tensor(stays, dtype=torch.bool, device=order.device)]
