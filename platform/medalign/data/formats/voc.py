"""Format `voc`: photographs with Pascal VOC boxes; whole, or a crop per object, with one window for every class."""

from __future__ import annotations

import statistics
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from medalign import storage
from medalign.data import images
from medalign.data.images import ImageReject
from medalign.data.items import Box, Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    "crops": False,  # one row per object, instead of one per photograph with boxes
    "window": 0,  # side of a crop in pixels; 0: 1.25 x the median of the classes' median box sides, to a multiple of 16
}
LICENCE = "unknown"
MAX_XML = 1 << 20
LISTS = ("train", "val", "test")


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List photographs, or objects, with the splits of ImageSets/Main where they are given.

    Raises:
        CorpusError: no Annotations folder, or a photograph in two lists.
    """
    sizes = storage.list_sizes(source)
    root = _root(source, sizes)
    pictures = {
        PurePosixPath(path).stem: path for path in sizes if path.startswith(storage.join(root, "JPEGImages") + "/")
    }
    official = _official(root, sizes)
    found = [path for path in sizes if path.startswith(storage.join(root, "Annotations") + "/") and path[-4:] == ".xml"]
    boxes = {PurePosixPath(path).stem: _annotation(path) for path in found}
    side = options["window"] or _typical_window(boxes)
    for stem, annotation in boxes.items():
        path = pictures.get(stem, "")
        photo = Item(key=stem, path=path, group=stem, size=sizes.get(path, 0), split=official.get(stem))
        if isinstance(annotation, str):
            yield replace(photo, where={"reject": annotation})
            continue
        size, objects = annotation
        if not options["crops"]:
            yield replace(photo, where={"size": size, "boxes": [asdict(box) for box in objects]})
            continue
        for number, box in enumerate(objects):
            where = {"size": size, "box": asdict(box), "window": side}
            yield replace(photo, key=f"{stem}#{number}", label=box.label, where=where)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return a photograph with its boxes, or the crop around one object."""
    if "reject" in item.where:
        raise ImageReject(item.where["reject"])
    photo = images.open_image(storage.read_bytes(item.path))
    size = item.where["size"]
    if size and tuple(size) != photo.size:
        raise ImageReject("a photograph of another size than its annotation says")
    if "box" not in item.where:
        boxes = tuple(Box(**box) for box in item.where["boxes"])
        for box in boxes:
            _check(box, photo.size)
        return Content(image=np.asarray(photo), boxes=boxes)
    box = Box(**item.where["box"])
    _check(box, photo.size)
    return Content(image=np.asarray(photo.crop(crop_around(box, item.where["window"], photo.size))))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Say what a crop is."""
    if not options["crops"]:
        return ()
    side = options["window"] or "1.25 x the median of the classes' median box sides"
    return (f"one crop per object: a square window ({side} px), equal for every class, moved inside the photograph",)


def crop_around(box: Box, side: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the window centred on a box, moved as little as keeps it in the photograph.

    Raises:
        ImageReject: the photograph is smaller than the window.
    """
    if min(size) < side:
        raise ImageReject(f"a photograph smaller than the window of {side} px")
    left = min(max(round((box.left + box.right - side) / 2), 0), size[0] - side)
    top = min(max(round((box.top + box.bottom - side) / 2), 0), size[1] - side)
    return left, top, left + side, top + side


def _check(box: Box, size: tuple[int, int]) -> None:
    if not (0 <= box.left < box.right <= size[0] and 0 <= box.top < box.bottom <= size[1]):
        raise ImageReject("a box that is empty or reaches outside its photograph")


def _root(source: str, sizes: Mapping[str, int]) -> str:
    folders = {path[: path.index("/Annotations/")] for path in sizes if "/Annotations/" in path}
    if len(folders) != 1:
        raise CorpusError(f"{source}: {len(folders)} folders named Annotations below it; give the one VOC folder.")
    return folders.pop()


def _official(root: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the split of each photograph named in ImageSets/Main; empty if there are no lists."""
    splits: dict[str, str] = {}
    for split in LISTS:
        path = storage.join(root, "ImageSets/Main", f"{split}.txt")
        for line in storage.read_bytes(path).decode().split("\n") if path in sizes else []:
            name = line.split()[0] if line.split() else ""
            if splits.setdefault(name, split) != split and name:
                raise CorpusError(f"{root}: a photograph is in the lists {splits[name]} and {split}.")
    splits.pop("", None)
    return splits


def _annotation(path: str) -> tuple[tuple[int, int] | None, list[Box]] | str:
    """Return ((width, height), boxes) of an annotation, or why it cannot be read. VOC counts from 1, inclusive."""
    data = storage.read_bytes(path)
    if len(data) > MAX_XML:
        return "an annotation larger than 1 MiB"
    if b"<!" in data.replace(b"<!--", b""):
        return "an annotation with a document type"  # entities can expand without bound
    try:
        root = ET.fromstring(data)
        numbers = [int(float(root.findtext(f"size/{name}") or 0)) for name in ("width", "height")]
        boxes = [
            Box(
                label=(obj.findtext("name") or "").strip(),
                left=max(float(obj.findtext("bndbox/xmin") or "nan") - 1, 0),
                top=max(float(obj.findtext("bndbox/ymin") or "nan") - 1, 0),
                right=float(obj.findtext("bndbox/xmax") or "nan"),
                bottom=float(obj.findtext("bndbox/ymax") or "nan"),
            )
            for obj in root.iter("object")
        ]
    except (ET.ParseError, ValueError) as error:
        return f"a damaged annotation ({type(error).__name__})"
    if not all(box.label for box in boxes):
        return "an object without a name"
    return ((numbers[0], numbers[1]) if all(numbers) else None), boxes


def _typical_window(annotations: Mapping[str, Any]) -> int:
    """Return a window from the boxes: between the classes, so that neither size nor context gives the class away."""
    sides: dict[str, list[float]] = defaultdict(list)
    for annotation in annotations.values():
        for box in annotation[1] if not isinstance(annotation, str) else ():
            sides[box.label].append(max(box.right - box.left, box.bottom - box.top))
    if not sides:
        return 0
    typical = 1.25 * statistics.median(statistics.median(values) for values in sides.values())
    return max(16, -(-int(typical) // 16) * 16)
