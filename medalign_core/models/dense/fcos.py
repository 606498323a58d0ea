"""The head of FCOS (Tian et al. 2019): at every place of every level the classes, a box, and how central it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Located(NamedTuple):
    """What the head says at the P places of all levels, one after another.

    Attributes:
        logits: (B, P, C) of each class.
        sides: (B, P, 4) distances to the box's left, top, right and bottom, in pixels, > 0.
        central: (B, P) logit of the centre-ness.
        places: (P, 2) the pixel (x, y) at the middle of each cell.
        strides: (P,) pixels of a side of each cell.
    """

    logits: Float[Tensor, "B P C"]
    sides: Float[Tensor, "B P 4"]
    central: Float[Tensor, "B P"]
    places: Float[Tensor, "P 2"]
    strides: Float[Tensor, " P"]

    @property
    def boxes(self) -> Float[Tensor, "B P 4"]:
        """The boxes (left, top, right, bottom) in pixels."""
        return torch.cat([self.places - self.sides[..., :2], self.places + self.sides[..., 2:]], dim=-1)


class FCOSHead(nn.Module):
    """Two towers of convolutions, shared by all levels, with group norm; a learnt scale of the distances per level.

    Args:
        width: channels of the levels.
        classes: C.
        depth: convolutions of a tower.
        levels: how many there are.
    """

    def __init__(self, width: int, *, classes: int, depth: int, levels: int) -> None:
        super().__init__()
        self.class_tower, self.box_tower = _tower(width, depth), _tower(width, depth)
        self.classes = nn.Conv2d(width, classes, kernel_size=3, padding=1)
        self.sides = nn.Conv2d(width, 4, kernel_size=3, padding=1)
        self.central = nn.Conv2d(width, 1, kernel_size=3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        nn.init.normal_(self.classes.weight, std=0.01)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log(99))  # a chance of 1 %: else the empty places swamp the loss

    def forward(self, levels: Sequence[Float[Tensor, "B _ _ _"]], size: tuple[int, int]) -> Located:
        """Return what is said at every place of an input of `size` (height, width)."""
        found = []
        for number, level in enumerate(levels):
            rows, columns = level.shape[-2:]
            down, across = size[0] / rows, size[1] / columns
            boxes = self.box_tower(level)
            y = (torch.arange(rows, device=level.device, dtype=torch.float32) + 0.5) * down
            x = (torch.arange(columns, device=level.device, dtype=torch.float32) + 0.5) * across
            stride = math.sqrt(down * across)
            distances = nn.functional.softplus(self.sides(boxes).float() * self.scales[number].float()) * stride
            found.append(
                (
                    self.classes(self.class_tower(level)).flatten(2).transpose(1, 2).float(),
                    distances.flatten(2).transpose(1, 2),
                    self.central(boxes).flatten(1).float(),
                    torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2),
                    torch.full((rows * columns,), stride, device=level.device),
                )
            )
        logits, sides, central, places, strides = zip(*found, strict=True)
        return Located(
            logits=torch.cat(logits, dim=1),
            sides=torch.cat(sides, dim=1),
            central=torch.cat(central, dim=1),
            places=torch.cat(places),
            strides=torch.cat(strides),
        )


def _tower(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(width, 8), width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
