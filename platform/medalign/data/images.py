"""Images, made safe and equal: an allow-list, caps, 8-bit grey or RGB, re-encoded without metadata, hashed. Pure."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
MAX_BYTES = 512 * 1024 * 1024
MAX_PIXELS = 64_000_000
Encoding = Literal["auto", "png", "jpeg"]
ENCODINGS: tuple[str, ...] = ("auto", "png", "jpeg")
JPEG_QUALITY = 95
SMALL_PIXELS = 128 * 128  # colour images up to here are kept lossless


class ImageReject(ValueError):
    """An image that does not become a row. The message is the reason; it never quotes the file's name or content."""


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to 8-bit grey (L) or RGB, upright.

    The size in the header is checked before any pixel is decoded. EXIF orientation is applied; of an animation or a
    stack the first frame is taken; alpha is composed over black; 16-bit and float images are mapped linearly from
    their own minimum and maximum to 0..255; an RGB image whose channels are equal becomes grey.

    Args:
        data: the file's content.
        max_pixels: largest width times height.

    Raises:
        ImageReject: empty, of a format outside FORMATS, larger than `max_pixels`, or damaged.
    """
    if not data:
        raise ImageReject("empty file")
    if len(data) > MAX_BYTES:
        raise ImageReject(f"file larger than {MAX_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own cap is an error, below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*image.size, max_pixels=max_pixels)
        image.load()
        return normalise(ImageOps.exif_transpose(image))
    except ImageReject:
        raise
    except Image.DecompressionBombError as error:
        raise ImageReject(f"more than {max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageReject(f"not an image of the formats {', '.join(FORMATS)}") from error
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a decoder fed with damaged bytes may raise anything
        raise ImageReject(f"damaged image ({type(error).__name__})") from error


def from_array(pixels: np.ndarray, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the image of an array: (H, W) or (H, W, 3), uint8 as it is, other types mapped from their own range."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise ImageReject(f"an array of shape {pixels.shape} is not a grey or RGB image")
    _check_size(pixels.shape[1], pixels.shape[0], max_pixels=max_pixels)
    return normalise(Image.fromarray(np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else _to_8_bit(pixels))))


def normalise(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit L or RGB (see `open_image`)."""
    mode = image.mode
    if mode == "L":
        return image
    if mode in ("1", "LA", "La"):
        return image.convert("L") if mode == "1" else _over_black(image.convert("RGBA")).convert("L")
    if mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image)))
    if mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = _over_black(image.convert("RGBA"))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return _without_colour(image)


def fit(image: Image.Image, max_side: int) -> Image.Image:
    """Scale an image down, by area averaging, until its longer side is `max_side`; a smaller one is left alone."""
    longer = max(image.size)
    if longer <= max_side:
        return image
    size = tuple(max(1, round(side * max_side / longer)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.BOX)


def encode(image: Image.Image, encoding: Encoding = "auto") -> bytes:
    """Return an L or RGB image as PNG or JPEG, without any metadata.

    `auto` keeps grey and small colour images lossless (PNG) and stores larger colour images as JPEG, quality 95,
    without chroma subsampling.
    """
    stream = io.BytesIO()
    small = image.width * image.height <= SMALL_PIXELS
    if encoding == "png" or (encoding == "auto" and (image.mode == "L" or small)):
        image.save(stream, "PNG", compress_level=4)
    else:
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def encode_mask(mask: np.ndarray, size: tuple[int, int]) -> bytes:
    """Return class indices (H, W) uint8 as a PNG of another size (width, height), by the nearest pixel."""
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    if image.size != size:
        image = image.resize(size, Image.Resampling.NEAREST)
    image.save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """Return the class indices (H, W) uint8 of a corpus's mask.

    Raises:
        ImageReject: the bytes are not a whole 8-bit grey PNG.
    """
    image = decode(data)
    if image.mode != "L":
        raise ImageReject(f"a mask of mode {image.mode}, a corpus holds L")
    return np.asarray(image)


def decode(data: bytes) -> Image.Image:
    """Decode a corpus's own image (PNG or JPEG; L or RGB).

    Raises:
        ImageReject: the bytes are not a whole image.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        image.load()
    except Exception as error:  # noqa: BLE001  a decoder fed with damaged bytes may raise anything
        raise ImageReject(f"damaged image ({type(error).__name__})") from error
    if image.mode not in ("L", "RGB"):
        raise ImageReject(f"mode {image.mode}, a corpus holds L and RGB")
    return image


def pixel_hash(image: Image.Image) -> str:
    """Return a hash of an image's mode, size and pixels: equal for equal pictures, whatever their encoding."""
    head = f"{image.mode}:{image.width}x{image.height}:".encode()
    return hashlib.blake2b(head + image.tobytes(), digest_size=16).hexdigest()


def _check_size(width: int, height: int, *, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageReject("an image without pixels")
    if width * height > max_pixels:
        raise ImageReject(f"{width} x {height} pixels, more than {max_pixels}")


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Map pixels linearly from their own minimum and maximum to 0..255; a constant image becomes black."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageReject("pixels that are not finite")
    low, high = values.min(), values.max()
    return np.rint((values - low) * (255.0 / (high - low) if high > low else 0.0)).astype(np.uint8)


def _over_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image).convert("RGB")


def _without_colour(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image
