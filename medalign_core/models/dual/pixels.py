"""From uint8 images to what an image tower was trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # published beside the weights of CLIP, and BiomedCLIP's too
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Normalisation(NamedTuple):
    """Subtracted from, and divided by, each of R, G, B in [0, 1]: plain numbers, which no cast of a module rounds."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: UInt8[Tensor, "B 3 H W"], size: int, dtype: torch.dtype) -> Float[Tensor, "B 3 H W"]:
        """Return the pixels, normalised in float32 whatever `dtype`.

        Raises:
            ValueError: images that are not `size` x `size`; resizing is for whoever reads them.
        """
        if tuple(images.shape[-2:]) != (size, size):
            height, width = images.shape[-2:]
            raise ValueError(f"the image tower takes {size} x {size} pixels, got {height} x {width}.")
        mean, std = (torch.tensor(values, device=images.device).reshape(3, 1, 1) for values in self)
        return ((images.float() / 255.0 - mean) / std).to(dtype)
