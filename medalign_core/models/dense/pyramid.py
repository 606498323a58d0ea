"""A feature pyramid (Lin et al. 2017): an encoder's maps brought to one width, the coarse added to the fine."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class FeaturePyramid(nn.Module):
    """P_l = conv3x3(conv1x1(C_l) + upsample(P_{l+1})) for every map, and one further level of half the last one's size.

    Args:
        channels: of the maps, the finest first.
        width: channels of every level.
    """

    def __init__(self, channels: Sequence[int], *, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(each, width, kernel_size=1) for each in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in channels)
        self.further = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the levels, the finest first."""
        merged = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for number in range(len(merged) - 2, -1, -1):
            size = merged[number].shape[-2:]
            merged[number] = merged[number] + functional.interpolate(merged[number + 1], size=size, mode="nearest")
        levels = [smooth(each) for smooth, each in zip(self.smooth, merged, strict=True)]
        return [*levels, self.further(functional.relu(levels[-1]))]
