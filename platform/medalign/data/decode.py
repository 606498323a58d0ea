"""From encoded bytes to pixels: the deterministic test transform, and two augmented views. Pure: no Ray, no files."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from medalign.data.settings import Views
from medalign_core.ops.draws import draw_seed

FORMATS = ("PNG", "JPEG")


class View(NamedTuple):
    """One view: pixels (3, S, S) uint8; box = (top, left, height, width) in [0, 1] of the source; mirrored or not."""

    pixels: np.ndarray
    box: tuple[float, float, float, float]
    flipped: bool


def open_image(data: bytes) -> Image.Image:
    """Return the RGB image of a corpus row.

    Raises:
        ValueError: the bytes are not a whole PNG or JPEG image.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for broken bytes
        raise ValueError(f"not a whole image ({error})") from error


def decode_image(data: bytes, size: int) -> np.ndarray:
    """Return the test view (3, size, size) uint8: the shorter side resized to `size`, the centre cut out."""
    image = open_image(data)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=2.0
    )
    return _pixels(square)


def augment(image: Image.Image, size: int, settings: Views, *, key: tuple[int | str, ...]) -> View:
    """Return one random view of an image: random resized crop, mirror, colour jitter, grey, blur.

    Every draw comes from `key`, so the same key gives the same view everywhere.
    """
    draw = np.random.Generator(np.random.Philox(key=draw_seed(*key)))
    left, top, width, height = _crop(image.size, settings, draw)
    view = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height), reducing_gap=2.0
    )
    flipped = bool(draw.random() < settings.flip)
    if flipped:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = _jitter(view, settings, draw)
    if settings.force_grey or draw.random() < settings.grey:
        view = view.convert("L").convert("RGB")
    if draw.random() < settings.blur:
        radius = draw.uniform(*settings.blur_radius) * size / 224
        view = view.filter(ImageFilter.GaussianBlur(radius))
    full_width, full_height = image.size
    box = (top / full_height, left / full_width, height / full_height, width / full_width)
    return View(_pixels(view), box, flipped)


def _crop(size: tuple[int, int], settings: Views, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw (left, top, width, height) in pixels; the whole image where ten tries do not fit."""
    full_width, full_height = size
    for _ in range(10):
        area = full_width * full_height * draw.uniform(*settings.scale)
        ratio = math.exp(draw.uniform(math.log(settings.ratio[0]), math.log(settings.ratio[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = int(draw.integers(0, full_width - width + 1))
            return left, int(draw.integers(0, full_height - height + 1)), width, height
    return 0, 0, full_width, full_height


def _jitter(view: Image.Image, settings: Views, draw: np.random.Generator) -> Image.Image:
    if draw.random() >= settings.jitter:
        return view
    for name in draw.permutation(4):
        if name == 3:
            view = _turn_hue(view, draw.uniform(-settings.hue, settings.hue))
            continue
        strength = (settings.brightness, settings.contrast, settings.saturation)[name]
        enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[name]
        view = enhance(view).enhance(draw.uniform(max(0.0, 1 - strength), 1 + strength))
    return view


def _turn_hue(view: Image.Image, share: float) -> Image.Image:
    turn = round(share * 256)
    if not turn:  # to HSV and back loses a few levels
        return view
    hue, saturation, value = view.convert("HSV").split()
    turned = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _pixels(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
