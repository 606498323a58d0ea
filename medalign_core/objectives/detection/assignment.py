"""Which box each place learns (Tian et al. 2019, section 3, with centre sampling): the smallest that it is in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SIZES = 8.0  # a level is for boxes whose farthest side is up to so many of its strides away


class Assigned(NamedTuple):
    """What the P places of each image learn.

    Attributes:
        classes: (B, P) class index, -1 for a place with no object.
        boxes: (B, P, 4) the box (left, top, right, bottom) in pixels; zeros where there is none.
        central: (B, P) in [0, 1], 1 at a box's centre and 0 at its border; 0 where there is none.
    """

    classes: Int[Tensor, "B P"]
    boxes: Float[Tensor, "B P 4"]
    central: Float[Tensor, "B P"]


def assign(
    places: Float[Tensor, "P 2"],
    strides: Float[Tensor, " P"],
    boxes: Float[Tensor, "B T 4"],
    labels: Int[Tensor, "B T"],
    *,
    centre_radius: float,
) -> Assigned:
    """Give every place the smallest box that holds it near its centre and is of its level's size.

    A place is near a centre within `centre_radius` cells in both directions. A level takes boxes whose farthest side
    lies more than SIZES strides of the level before it and at most SIZES of its own strides away; the first level
    begins at 0 and the last has no end.
    """
    x, y = places[None, :, None, 0], places[None, :, None, 1]  # (1, P, 1)
    left, top, right, bottom = boxes[:, None].unbind(-1)  # (B, 1, T)
    sides = torch.stack([x - left, y - top, right - x, bottom - y], dim=-1)  # (B, P, T, 4)
    farthest = sides.max(-1).values
    levels = strides.unique()  # in rising order
    ends = torch.cat([levels.new_zeros(1), SIZES * levels[:-1], levels.new_full((1,), torch.inf)])
    level = torch.searchsorted(levels, strides)
    low, high = ends[level][None, :, None], ends[level + 1][None, :, None]
    away = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
    fits = (sides.min(-1).values > 0) & (farthest > low) & (farthest <= high)
    fits &= (away < centre_radius * strides[None, :, None]) & (labels >= 0)[:, None]
    areas = (right - left) * (bottom - top)
    areas = torch.where(fits, areas, torch.inf)
    if not areas.shape[-1]:
        none = areas.new_zeros((*areas.shape[:2], 4))
        return Assigned(labels.new_full(areas.shape[:2], -1), none, none[..., 0])
    smallest, chosen = areas.min(-1)
    there = torch.isfinite(smallest)
    own = sides.gather(2, chosen[..., None, None].expand(-1, -1, 1, 4))[:, :, 0].clamp(min=0)
    across, down = own[..., 0::2], own[..., 1::2]
    ratio = across.min(-1).values * down.min(-1).values / (across.max(-1).values * down.max(-1).values).clamp(min=1e-9)
    taken = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    return Assigned(
        classes=torch.where(there, labels.gather(1, chosen), -1),
        boxes=torch.where(there[..., None], taken, 0.0),
        central=torch.where(there, ratio.sqrt(), 0.0),
    )
