"""One item becomes one row: read, normalise, encode; or a reason why not. Pure but for reading the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medalign.data import dialogue, formats, images
from medalign.data.items import Content, Item, hashed
from medalign.data.manifest import WITH_WORDS
from medalign.errors import StorageError, UserError

MAX_CAPTION = 65536  # characters


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How rows are made: part of the corpus's fingerprint.

    Attributes:
        format: the reader's name.
        options: the reader's options, complete.
        max_side: longer side of a stored image, in pixels; larger ones are scaled down by area averaging.
        max_pixels: larger images are not decoded but quarantined.
        encoding: `auto`, `png` or `jpeg`.
        salt: enters every hash that stands for a name.
    """

    format: str
    options: dict[str, Any]
    max_side: int
    max_pixels: int
    encoding: images.Encoding
    salt: str


def make(item: Item, recipe: Recipe) -> tuple[dict[str, Any], str]:
    """Return (row, "") or, for an item that cannot become one, ({}, reason). One bad item costs one row.

    Raises:
        UserError: the source itself cannot be reached.
    """
    try:
        if not item.path:
            raise images.ImageReject("no image")
        return _row(item, recipe), ""
    except (images.ImageReject, dialogue.DialogueReject) as error:
        return {}, str(error)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}, "file not found"
        # The path may name somebody, so it is not in the text.
        raise StorageError("a file of the source cannot be read; check its permissions and the connection.") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  damaged input may raise anything; the text could quote a name, so only the type
        return {}, f"damaged ({type(error).__name__})"


def _row(item: Item, recipe: Recipe) -> dict[str, Any]:
    task = formats.task(recipe.format)
    words = dialogue.columns(item.words) if task in WITH_WORDS else {}
    content = formats.reader(recipe.format).read_item(item, recipe.options)
    if isinstance(content.image, bytes):
        whole = images.open_image(content.image, max_pixels=recipe.max_pixels)
    else:
        whole = images.from_array(content.image, max_pixels=recipe.max_pixels)
    image = images.fit(whole, recipe.max_side)
    encoded = images.encode(image, recipe.encoding)
    lossless = encoded.startswith(b"\x89PNG")
    return {
        "image": encoded,
        "label": item.label,
        "caption": _text(item.caption or content.caption),
        "group": hashed("group", item.group, salt=recipe.salt),
        "modality": content.modality,
        "body_part": content.body_part,
        "width": image.width,
        "height": image.height,
        "pixels": images.pixel_hash(image if lossless else images.decode(encoded)),
        "boxes": _scaled_boxes(content, image.width / whole.width, image.height / whole.height),
        **words,
        **(_annotations(item, content, whole.size, image.size, salt=recipe.salt) if task == "annotated" else {}),
    }


def _annotations(
    item: Item, content: Content, whole: tuple[int, int], size: tuple[int, int], *, salt: str
) -> dict[str, Any]:
    """Return the columns of an annotated row; a mask is scaled to its image's `size` by the nearest pixel."""
    mask = spacing = None
    if content.mask is not None:
        if content.mask.shape != whole[::-1]:
            raise images.ImageReject("a mask of another size than its image")
        mask = images.encode_mask(content.mask, size)
    if content.spacing is not None:
        apart, down, across = content.spacing
        spacing = [apart, down * whole[1] / size[1], across * whole[0] / size[0]]
    return {
        "mask": mask,
        "volume": item.volume and hashed("volume", item.volume, salt=salt),
        "slice": content.slice,
        "spacing": spacing,
        "attributes": [{"name": name, "value": value} for name, value in sorted(item.attributes.items())],
    }


def _scaled_boxes(content: Content, across: float, down: float) -> list[dict[str, Any]] | None:
    if content.boxes is None:
        return None
    return [
        {
            "label": box.label,
            "left": box.left * across,
            "top": box.top * down,
            "right": box.right * across,
            "bottom": box.bottom * down,
        }
        for box in content.boxes
    ]


def _text(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise images.ImageReject("a caption that is not valid text") from None
    if len(text) > MAX_CAPTION:
        raise images.ImageReject(f"a caption longer than {MAX_CAPTION} characters")
    return text
