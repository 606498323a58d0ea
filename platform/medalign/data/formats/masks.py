"""Format `masks`: a folder of images beside one of masks, perhaps below one per split; or a CSV (path,mask,...).

A CSV may name, beside `path`: `mask`, `label`, `group`, `split` and, by the option `attributes`, columns to keep for
subgroups: site, scanner, sex, age band, view.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, label

from medalign import storage
from medalign.data import images, mask_values
from medalign.data.formats.image_folder import SPLITS, group_finder, group_of, is_image
from medalign.data.items import Box, Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    **mask_values.OPTIONS,
    "images": "images",  # the folder of images; "" for the source itself
    "masks": "masks",  # the folder of masks; or one folder for each class but the background, e.g. "heart,lungs"
    "image_suffix": "",  # what an image's name ends with that its mask's lacks; several by commas: "_training,_test"
    "mask_suffix": "",  # what a mask's name ends with instead, e.g. "_segmentation"; numbers behind it are more of it
    "boxes": False,  # also a box around every connected piece of every class
    "group_pattern": "",  # a regular expression; its first capture group in the relative path is the row's group
    "attributes": "",  # the CSV's columns that subgroups are made of, e.g. "site,sex"
}
LICENCE = "unknown"
BINARY = {"classes": "background,object", "values": ""}  # how the folder of one class is read


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the images of a folder, or the rows of a CSV whose paths are relative to it.

    Raises:
        CorpusError: no such folders, options that do not fit, or a CSV without the columns.
    """
    _check(options)
    find = group_finder(options["group_pattern"])
    yield from _csv_items(source, options, find) if source.lower().endswith(".csv") else _pairs(source, options, find)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return an image and its mask; an item without a mask has none, unless its folder promised one."""
    files: list[list[str]] = item.where["masks"]
    if item.where.get("promised") and not all(files):
        raise images.ImageReject("no mask")
    picture = storage.read_bytes(item.path)
    if not any(files):
        return Content(image=picture)
    mask = _together(files, options)
    return Content(image=picture, mask=mask, boxes=boxes_of(mask, options) if options["boxes"] else None)


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Say what becomes of masks."""
    said = "masks: levels to class indices, scaled with their image by the nearest pixel"
    boxes = "boxes around the connected pieces of each class, diagonal neighbours connected"
    return ((said, boxes) if options["boxes"] else (said,)) if options["classes"] else ()


def boxes_of(mask: np.ndarray, options: dict[str, Any]) -> tuple[Box, ...]:
    """Return a box around every connected piece of every class but the background."""
    found = []
    for place, name in enumerate(mask_values.mask_classes(options)):
        pieces, _ = label(mask == place, np.ones((3, 3))) if place else (mask, 0)
        for rows, columns in find_objects(pieces) if place else ():
            corners = {"left": columns.start, "top": rows.start, "right": columns.stop, "bottom": rows.stop}
            found.append(Box(label=name, **{key: float(value) for key, value in corners.items()}))
    return tuple(found)


def _check(options: dict[str, Any]) -> None:
    names, folders = mask_values.mask_classes(options), options["masks"].split(",")
    if names and len(folders) not in (1, len(names) - 1):
        raise CorpusError(
            f"masks must name one folder, or one for each of {', '.join(names[1:])}, got {options['masks']!r}."
        )
    if names and options["images"] in folders and not options["mask_suffix"]:
        raise CorpusError("images and masks in one folder are told apart by the option mask_suffix; give it.")


def _together(files: list[list[str]], options: dict[str, Any]) -> np.ndarray:
    """Return one mask of an image's files: one of all classes, or a folder for each class; a later class wins."""
    whole = None
    by_folder = len(files) > 1
    for place, own in enumerate(files, start=1):
        for path in own:
            levels = _levels(storage.read_bytes(path))
            found = mask_values.to_classes(levels, BINARY if by_folder else options)
            if whole is None:
                whole = np.zeros_like(found)
            if found.shape != whole.shape:
                raise images.ImageReject("masks of different sizes")
            whole = np.where(found > 0, place if by_folder else found, whole).astype(np.uint8)
    assert whole is not None
    return whole


def _levels(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            if image.width * image.height > images.MAX_PIXELS:
                raise images.ImageReject(f"a mask of more than {images.MAX_PIXELS} pixels")
            plain = image.mode in ("L", "I", "I;16", "1") or (image.mode == "P" and image.format != "GIF")
            return np.asarray(image if plain else image.convert("L")).astype(np.int64)
    except images.ImageReject:
        raise
    except Exception as error:  # noqa: BLE001  a decoder fed with damaged bytes may raise anything
        raise images.ImageReject(f"damaged mask ({type(error).__name__})") from error


def _pairs(source: str, options: dict[str, Any], find: re.Pattern | None) -> Iterator[Item]:
    sizes = {path: size for path, size in storage.list_sizes(source).items() if is_image(path)}
    prefix = len(source.rstrip("/")) + 1
    folders = [folder.strip() for folder in options["masks"].split(",")] if options["classes"] else []
    masks: list[dict[str, list[str]]] = [{} for _ in folders]
    pictures: dict[str, str] = {}
    for path in sorted(sizes):
        tail = PurePosixPath(path[prefix:])
        names = [_mask_name(tail, folder, options["mask_suffix"]) for folder in folders]
        if any(names):
            place = next(place for place, name in enumerate(names) if name)
            masks[place].setdefault(str(names[place]), []).append(path)
        elif name := _image_name(tail, options):
            pictures[name] = path
    if not pictures or not all(masks):
        lacking = "images" if not pictures else "masks"
        raise CorpusError(f"{source}: no images below a folder {options[lacking]!r}; name it by the option {lacking}.")
    is_split = all(len(parts := PurePosixPath(n).parts) > 1 and parts[0].lower() in SPLITS for n in pictures)
    for name, path in pictures.items():
        yield Item(
            key=name,
            path=path,
            group=group_of(find, name),
            size=sizes[path],
            split=SPLITS[PurePosixPath(name).parts[0].lower()] if is_split else None,
            where={"masks": [each.get(name, []) for each in masks], "promised": bool(folders)},
        )


def _mask_name(tail: PurePosixPath, folder: str, suffix: str) -> str | None:
    """Return the name that a mask shares with its image, None for what is no mask of this folder."""
    if folder and folder not in tail.parts[:-1]:
        return None
    stem = re.fullmatch(rf"(.*){re.escape(suffix)}(?:_\d+)?" if suffix else "(.*)", tail.stem)
    return str(_without(tail, folder).with_name(stem.group(1))) if stem and (folder or suffix) else None


def _image_name(tail: PurePosixPath, options: dict[str, Any]) -> str | None:
    folder = options["images"]
    if folder and folder not in tail.parts[:-1]:
        return None
    for suffix in options["image_suffix"].split(","):
        if tail.stem.endswith(suffix.strip()):
            return str(_without(tail, folder).with_name(tail.stem.removesuffix(suffix.strip())))
    return None


def _without(tail: PurePosixPath, folder: str) -> PurePosixPath:
    """Return a path without the folder, so that an image and its mask have the same name."""
    at = tail.parts.index(folder) if folder else -1
    return PurePosixPath(*(part for place, part in enumerate(tail.parts) if place != at))


def _csv_items(source: str, options: dict[str, Any], find: re.Pattern | None) -> Iterator[Item]:
    try:
        table = csv.DictReader(io.StringIO(storage.read_bytes(source).decode("utf-8-sig"), newline=""))
        columns = table.fieldnames or []
    except UnicodeDecodeError as error:
        raise CorpusError(f"{source}: not UTF-8 text ({error.reason}); save the table as UTF-8.") from error
    kept = [name.strip() for name in options["attributes"].split(",") if name.strip()]
    for needed in ("path", *kept):
        if needed not in columns:
            raise CorpusError(f"{source}: no column {needed!r}; its columns are: {', '.join(columns) or 'none'}.")
    folder = source.rpartition("/")[0] or "."
    sizes = storage.list_sizes(folder)
    for number, row in enumerate(table, start=2):
        row = {name: (value or "").strip() for name, value in row.items() if name}
        for tail in filter(None, (row["path"], row.get("mask", ""))):
            if tail.startswith("/") or "://" in tail or ".." in PurePosixPath(tail).parts:
                raise CorpusError(f"{source}:{number}: paths must be relative to the CSV's folder, without '..'.")
        split = row.get("split", "").lower()
        if split and split not in SPLITS:
            raise CorpusError(f"{source}:{number}: split {split!r} is not one of {', '.join(SPLITS)}.")
        path = storage.join(folder, row["path"])
        yield Item(
            key=row["path"] or f"row {number}",
            path=path if row["path"] else "",
            group=row.get("group") or group_of(find, row["path"]),
            size=sizes.get(path, 0),
            split=SPLITS.get(split),
            label=row.get("label") or None,
            where={"masks": [[storage.join(folder, row["mask"])] if row.get("mask") else []]},
            attributes={name: row[name] for name in kept if row[name]},
        )
