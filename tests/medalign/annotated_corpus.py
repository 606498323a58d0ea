"""A small annotated corpus of bright squares and discs on noise, written without Ray."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from medalign.data import images, manifest, shards

CLASSES = ("disc", "square")
MASKS = ("background", *CLASSES)


def draw_picture(draw: np.random.Generator, size: int = 48) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Return (pixels, mask, boxes) of a picture with one or two shapes."""
    pixels = draw.normal(70, 12, size=(size, size, 3))
    mask = np.zeros((size, size), dtype=np.uint8)
    boxes = []
    y, x = np.mgrid[:size, :size]
    for part in range(int(draw.integers(1, 3))):
        kind, radius = int(draw.integers(2)), int(draw.integers(5, 8))
        middle = size // 4 + part * size // 2, int(draw.integers(radius, size - radius))
        away = (
            np.hypot(x - middle[0], y - middle[1]) if not kind else np.maximum(abs(x - middle[0]), abs(y - middle[1]))
        )
        inside = away < radius
        pixels[inside] = np.array([200, 90, 60]) if kind else np.array([60, 120, 210])
        mask[inside] = kind + 1
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        corners = {"left": columns[0], "top": rows[0], "right": columns[-1] + 1, "bottom": rows[-1] + 1}
        boxes.append({"label": CLASSES[kind], **{name: float(value) for name, value in corners.items()}})
    return pixels.clip(0, 255).astype(np.uint8), mask, boxes


def write_annotated(at: Path, splits: dict[str, int], *, slices: int = 0, seed: int = 0, shift: int = 0) -> str:
    """Write a corpus and return its URI; two images, or `slices` of a volume, in turn are of one group.

    The label is the first shape's kind; attributes are a site and, of every other image, a sex. `shift` brightens all.
    """
    found = {}
    for number, (split, count) in enumerate(splits.items()):
        draw = np.random.default_rng([seed, number])
        rows = [_row(split, i, draw, slices, shift) for i in range(count)]
        table = pa.Table.from_pylist(rows, schema=manifest.columns_of("annotated"))
        shard = shards.write(str(at), shards.name(split, 0), table, row_group_rows=8)
        labels = [row["label"] for row in rows]
        found[split] = manifest.Split(
            rows=count,
            groups=len({row["group"] for row in rows}),
            classes={name: labels.count(name) for name in CLASSES},
            shards=(shard,),
        )
    made = manifest.Manifest(
        name=at.name,
        splits=found,
        classes=CLASSES,
        task="annotated",
        schema=manifest.schema_of("annotated"),
        mask_classes=MASKS,
        fingerprint=at.name,
    )
    manifest.write(str(at), made)
    return str(at)


def _row(split: str, number: int, draw: np.random.Generator, slices: int, shift: int) -> dict:
    pixels, mask, boxes = draw_picture(draw)
    pixels = (pixels.astype(int) + shift).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    sink = BytesIO()
    image.save(sink, "PNG")
    group = f"{split}-{number // (slices or 2)}"
    attributes = [{"name": "site", "value": "north" if number % 3 else "south"}]
    attributes += [{"name": "sex", "value": "f"}] if number % 2 else []
    return {
        "id": f"{split}-{number:04d}",
        "image": sink.getvalue(),
        "label": boxes[0]["label"],
        "group": group,
        "width": image.width,
        "height": image.height,
        "pixels": images.pixel_hash(image),
        "boxes": boxes,
        "mask": images.encode_mask(mask, image.size),
        "volume": group if slices else None,
        "slice": number % slices if slices else None,
        "spacing": [2.0, 1.0, 1.0] if slices else None,
        "attributes": attributes,
    }
