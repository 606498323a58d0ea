"""Declared shifts of images, for sets without a second site: synthetic, and said to be. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from medalign_core.ops.draws import draw_seed


def _contrast(image: Image.Image, key: str) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(0.5)


def _resolution(image: Image.Image, key: str) -> Image.Image:
    small = (max(1, image.width // 3), max(1, image.height // 3))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


def _noise(image: Image.Image, key: str) -> Image.Image:
    draw = np.random.Generator(np.random.Philox(key=draw_seed("noise", key)))
    levels = np.asarray(image).astype(np.float32)
    same = draw.normal(scale=16, size=(*levels.shape[:2], 1))  # of all channels: a grey image stays grey
    return Image.fromarray((levels + same).clip(0, 255).astype(np.uint8))


def _stain(image: Image.Image, key: str) -> Image.Image:
    gains = np.array([1.1, 0.85, 0.95], dtype=np.float32)
    darkness = 255 - np.asarray(image).astype(np.float32)
    return Image.fromarray((255 - darkness * gains).clip(0, 255).astype(np.uint8))


SHIFTS: dict[str, tuple[str, Callable[[Image.Image, str], Image.Image]]] = {
    "contrast": ("half the contrast", _contrast),
    "resolution": ("a third of the resolution, enlarged again", _resolution),
    "noise": ("Gaussian noise of 16 grey levels, equal in all channels", _noise),
    "stain": ("darkness times 1.1, 0.85 and 0.95 in red, green and blue", _stain),
}


def shift_image(image: Image.Image, name: str, *, key: str) -> Image.Image:
    """Return an RGB image under a declared shift; draws come from `key` alone, so each image has one shifted form.

    Raises:
        ValueError: no shift of that name.
    """
    if name not in SHIFTS:
        raise ValueError(f"no shift {name!r}; there is: {', '.join(SHIFTS)}.")
    return SHIFTS[name][1](image, key)
