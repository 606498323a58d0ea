"""Format `coco`: images with boxes, as the JSON of instances that COCO publishes. Its polygons are not read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from medalign import storage
from medalign.data.formats.image_folder import SPLITS, group_finder, group_of
from medalign.data.images import ImageReject
from medalign.data.items import Box, Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    "images": "",  # the folder that file names are relative to; the JSON's own if ""
    "group_pattern": "",  # a regular expression; its first capture group in the file name is the row's group
}
LICENCE = "unknown"


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the images of an instances JSON, or of a folder of several, each named after its split.

    Raises:
        CorpusError: no such JSON, or one that is not COCO's.
    """
    find = group_finder(options["group_pattern"])
    if source.endswith(".json"):
        yield from _items(source, None, options, find)
        return
    found = [path for path in storage.list_files(source, recursive=False) if path.endswith(".json")]
    named = {path: _split(path) for path in found}
    if not found or None in named.values():
        raise CorpusError(
            f"{source}: give a JSON of instances, or a folder with one per split, named e.g. instances_train.json."
        )
    for path, split in named.items():
        yield from _items(path, split, options, find)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return the file as it is, with its boxes."""
    boxes = tuple(Box(**box) for box in item.where["boxes"])
    width, height = item.where["size"]
    for box in boxes:
        if not (0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height):
            raise ImageReject("a box that is empty or reaches outside its image")
    return Content(image=storage.read_bytes(item.path), boxes=boxes)


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Say what is left out."""
    return ("boxes of crowds are left out; boxes are cut at the image's border",)


def _split(path: str) -> str | None:
    words = PurePosixPath(path).stem.lower().replace("-", "_").split("_")
    names = [SPLITS[word.rstrip("0123456789")] for word in words if word.rstrip("0123456789") in SPLITS]
    return names[0] if len(names) == 1 else None


def _items(path: str, split: str | None, options: dict[str, Any], find: Any) -> Iterator[Item]:
    try:
        raw = json.loads(storage.read_bytes(path))
        names = {each["id"]: str(each["name"]) for each in raw["categories"]}
        boxes: dict[Any, list[Box]] = defaultdict(list)
        sizes = {each["id"]: (float(each["width"]), float(each["height"])) for each in raw["images"]}
        for each in raw["annotations"]:
            if not each.get("iscrowd"):
                boxes[each["image_id"]].append(_box(each["bbox"], names[each["category_id"]], sizes[each["image_id"]]))
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path}: not COCO's instances ({type(error).__name__}: {error}).") from error
    folder = (
        storage.join(path.rpartition("/")[0] or ".", options["images"])
        if options["images"]
        else path.rpartition("/")[0]
    )
    have = storage.list_sizes(folder)
    for each in raw["images"]:
        tail = str(each["file_name"])
        if tail.startswith("/") or ".." in PurePosixPath(tail).parts:
            raise CorpusError(f"{path}: file names must be relative, without '..'.")
        place = storage.join(folder, tail)
        yield Item(
            key=tail,
            path=place,
            group=group_of(find, tail),
            size=have.get(place, 0),
            split=split,
            where={"size": sizes[each["id"]], "boxes": [asdict(box) for box in boxes[each["id"]]]},
        )


def _box(corner_and_size: list[float], label: str, size: tuple[float, float]) -> Box:
    left, top, width, height = map(float, corner_and_size)
    right, bottom = min(left + width, size[0]), min(top + height, size[1])
    return Box(label=label, left=max(left, 0.0), top=max(top, 0.0), right=right, bottom=bottom)
