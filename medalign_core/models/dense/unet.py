"""A U-Net decoder (Ronneberger et al. 2015) on an encoder's maps: from the coarsest to the pixels, with skips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class UNetDecoder(nn.Module):
    """Upsamples the coarsest map step by step; each step joins the encoder's map of that size.

    From the encoder's finest map on, steps of factor 2 without an encoder's map lead to the input's own size, where a
    small convolution of the pixels is joined. Every step is two 3x3 convolutions with batch norm and ReLU.

    Args:
        channels: of the encoder's maps, the finest first.
        finest_stride: pixels of a side that a cell of the finest map stands for.
        classes: C, channels of the result.
        widths: channels of the steps from the coarsest on; the last one is that of all further steps.
        stem_width: channels that come from the pixels themselves; 0 for none.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        finest_stride: int,
        classes: int,
        widths: Sequence[int] = (256, 128, 64, 32, 16),
        stem_width: int = 16,
    ) -> None:
        super().__init__()
        skips = [*reversed(channels[:-1]), *[0] * math.ceil(math.log2(finest_stride))]
        blocks, entering = [], channels[-1]
        for number, skip in enumerate(skips):
            width = widths[min(number, len(widths) - 1)]
            blocks.append(_block(entering + skip, width))
            entering = width
        self.blocks = nn.ModuleList(blocks)
        self.stem = _block(3, stem_width) if stem_width else None
        self.last = _block(entering + stem_width, entering)
        self.head = nn.Conv2d(entering, classes, kernel_size=1)

    def forward(
        self, maps: Sequence[Float[Tensor, "B _ _ _"]], pixels: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the classes' logits of every pixel.

        Args:
            maps: the encoder's, the finest first.
            pixels: normalised as the encoder's are.
        """
        found = maps[-1]
        skips = list(reversed(maps[:-1]))
        for number, block in enumerate(self.blocks):
            if number < len(skips):
                found = functional.interpolate(found, size=skips[number].shape[-2:], mode="nearest")
                found = torch.cat([found, skips[number]], dim=1)
            else:
                found = functional.interpolate(found, scale_factor=2.0, mode="nearest")
            found = block(found)
        found = functional.interpolate(found, size=pixels.shape[-2:], mode="nearest")
        if self.stem is not None:
            found = torch.cat([found, self.stem(pixels.to(found.dtype))], dim=1)
        return self.head(self.last(found))


def _block(entering: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (entering, width):
        layers += [
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
