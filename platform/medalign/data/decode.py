"""From encoded bytes to pixels: the deterministic test transform, and two augmented views. Pure: no Ray, no files."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance, ImageFilter, ImageOps, UnidentifiedImageError

from medalign.data import images
from medalign.data.settings import Views
from medalign_core.ops.draws import draw_seed

if TYPE_CHECKING:
    from medalign_core.types import DrawKey, ImageBatch

FORMATS = ("PNG", "JPEG")
VIEWS = 2
MAX_PIXELS = 4096 * 4096  # a row of more is a bomb: what prepares a corpus scales larger images down


class View(NamedTuple):
    """One view: pixels (3, S, S) uint8; box = (top, left, height, width) in [0, 1] of the source; mirrored or not."""

    pixels: np.ndarray
    box: tuple[float, float, float, float]
    flipped: bool


class _Kind(NamedTuple):
    """Views of one size: so many of each image, their side, what their draws are keyed by, how they are drawn."""

    number: int
    size: int
    key: str
    views: Views


@dataclass(frozen=True)
class Decoder:
    """Turns blocks of encoded rows into arrays of views.

    Attributes:
        seed: the run's seed, which every draw is keyed by, with the row and its epoch.
        size: side of a view in pixels.
        views: how an image becomes views.
    """

    seed: int
    size: int
    views: Views

    @property
    def columns(self) -> tuple[str, ...]:
        """The corpus's columns that are read."""
        return ("id", "image", "label")

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        small = self.views.small
        return VIEWS * 3 * self.size**2 + (3 * small.count * small.size**2 if small else 0)

    def __call__(self, block: pa.Table) -> dict[str, np.ndarray]:
        """Return a block's views; a row that cannot be decoded becomes a hole, the others keep their place.

        A hole carries the pixels of the block's first good row, so that batch statistics never see a blank image; its
        `reason` says what is wrong with it.
        """
        count = len(block)
        kinds = self._kinds()
        arrays = {name: _blank(count, kind) for name, kind in kinds.items()}
        valid = np.zeros(count, dtype=bool)
        reasons = [""] * count
        rows, epochs = block["row"].to_numpy(), block["epoch"].to_numpy()
        for place, data in enumerate(block["image"]):
            try:
                image = open_image(data.as_buffer()) if data.is_valid else None
            except ValueError as error:
                reasons[place] = str(error)
                continue
            if image is None:
                reasons[place] = "" if rows[place] < 0 else "its shard is damaged"
                continue
            for name, kind in kinds.items():
                for v in range(kind.number):
                    key = (self.seed, kind.key, int(epochs[place]), int(rows[place]), v)
                    for array, value in zip(arrays[name], augment(image, kind.size, kind.views, key=key), strict=True):
                        array[place, v] = value
            valid[place] = True
        known = {name: block[name].to_numpy() for name in ("row", "label", "step", "index")}
        views = {"valid": valid}
        for name, (pixels, boxes, flipped) in arrays.items():
            if valid.any() and not valid.all():
                pixels[~valid] = pixels[np.argmax(valid)]
            views |= {f"{name}images": pixels, f"{name}boxes": boxes, f"{name}flipped": flipped}
        return {**views, **known, **text_columns(id=block["id"].to_pylist(), reason=reasons)}

    def _kinds(self) -> dict[str, _Kind]:
        """Return the kinds of views, by what the names of their arrays begin with."""
        kinds = {"": _Kind(VIEWS, self.size, "view", self.views)}
        if small := self.views.small:
            kinds["small_"] = _Kind(small.count, small.size, "small view", replace(self.views, scale=small.scale))
        return kinds

    def collate(self, arrays: dict[str, np.ndarray], *, key: DrawKey, weight: float) -> ImageBatch:
        """Return the ImageBatch of decoded arrays."""
        import torch

        from medalign_core.types import ImageBatch

        return ImageBatch(
            images=torch.from_numpy(np.array(arrays["images"])),
            boxes=torch.from_numpy(np.array(arrays["boxes"], dtype=np.float32)),
            flipped=torch.from_numpy(np.array(arrays["flipped"])),
            valid=torch.from_numpy(np.array(arrays["valid"])),
            labels=torch.from_numpy(np.array(arrays["label"])),
            ids=torch.from_numpy(np.array(arrays["row"])),
            key=key,
            weight=weight,
            **{
                f"small_{name}": torch.from_numpy(np.array(arrays[f"small_{name}"]))
                for name in ("images", "boxes", "flipped")
                if self.views.small
            },
        )


def open_image(data: bytes | pa.Buffer) -> Image.Image:
    """Return the RGB image of a corpus row.

    The size in the header is checked before any pixel is decoded. A corpus holds upright 8-bit grey and RGB; what else
    a PNG or a JPEG may be (CMYK, 16-bit, a palette, alpha, the first frame of an animation, turned by its EXIF) is
    brought to that as `medalign data prepare` does it.

    Raises:
        ValueError: the bytes are not a whole PNG or JPEG image, or one of more pixels than a corpus may hold.
    """
    if not len(data):
        raise ValueError("empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own cap is an error, below
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        limit = MAX_PIXELS if image.mode in ("L", "RGB") else MAX_PIXELS // 4  # the others take more memory on the way
        if image.width * image.height > limit:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {limit}")
        image.load()
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        return image.convert("RGB") if image.mode in ("L", "RGB") else images.normalise(image).convert("RGB")
    except UnidentifiedImageError as error:  # its text has the address of the buffer
        raise ValueError("not a PNG or a JPEG") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAX_PIXELS} pixels") from error
    except (OSError, SyntaxError) as error:  # what Pillow raises for broken bytes
        raise ValueError(f"not a whole image ({type(error).__name__})") from error


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


def _blank(rows: int, kind: _Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels, boxes and whether they are mirrored, of rows that are still to be decoded."""
    pixels = np.zeros((rows, kind.number, 3, kind.size, kind.size), dtype=np.uint8)
    boxes = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (rows, kind.number, 1))
    return pixels, boxes, np.zeros((rows, kind.number), dtype=bool)


def text_columns(**columns: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Return columns of text as arrays of objects, which become plain string columns of a block."""
    return {name: np.array([value or "" for value in values], dtype=object) for name, values in columns.items()}


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
