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

from medalign import storage
from medalign.data import images, mask_values
from medalign.data.formats.image_folder import SPLITS, group_finder, group_of, is_image
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    **mask_values.OPTIONS,
    "images": "images",  # the folder of images
    "masks": "masks",  # the folder of masks, of the same names but for the suffix
    "mask_suffix": "",  # what a mask's name has behind its image's, e.g. "_segmentation"
    "group_pattern": "",  # a regular expression; its first capture group in the relative path is the row's group
    "attributes": "",  # the CSV's columns that subgroups are made of, e.g. "site,sex"
}
LICENCE = "unknown"


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the images of a folder, or the rows of a CSV whose paths are relative to it.

    Raises:
        CorpusError: no such folders, options that do not fit, or a CSV without the columns.
    """
    mask_values.mask_classes(options)
    find = group_finder(options["group_pattern"])
    yield from _csv_items(source, options, find) if source.lower().endswith(".csv") else _pairs(source, options, find)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return an image and its mask; an item without a mask has none, unless its folder promised one."""
    if item.where.get("promised") and not item.where.get("mask"):
        raise images.ImageReject("no mask")
    picture = storage.read_bytes(item.path)
    if not item.where.get("mask"):
        return Content(image=picture)
    return Content(image=picture, mask=_mask(storage.read_bytes(item.where["mask"]), options))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Say what becomes of masks."""
    said = "masks: levels to class indices, scaled with their image by the nearest pixel"
    return (said,) if options["classes"] else ()


def _mask(data: bytes, options: dict[str, Any]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            if image.width * image.height > images.MAX_PIXELS:
                raise images.ImageReject(f"a mask of more than {images.MAX_PIXELS} pixels")
            levels = np.asarray(image if image.mode in ("P", "L", "I", "I;16", "1") else image.convert("L"))
    except images.ImageReject:
        raise
    except Exception as error:  # noqa: BLE001  a decoder fed with damaged bytes may raise anything
        raise images.ImageReject(f"damaged mask ({type(error).__name__})") from error
    return mask_values.to_classes(levels.astype(np.int64), options)


def _pairs(source: str, options: dict[str, Any], find: re.Pattern | None) -> Iterator[Item]:
    sizes = {path: size for path, size in storage.list_sizes(source).items() if is_image(path)}
    prefix = len(source.rstrip("/")) + 1
    by_kind: dict[str, dict[str, str]] = {"images": {}, "masks": {}}
    for path in sizes:
        parts = PurePosixPath(path[prefix:]).parts
        for kind, found in by_kind.items():
            if options[kind] in parts[:-1]:  # the folder goes, so that both sides have the same name
                at = parts.index(options[kind])
                found[str(PurePosixPath(*parts[:at], *parts[at + 1 :]).with_suffix(""))] = path
                break
    if not by_kind["images"] or (options["classes"] and not by_kind["masks"]):
        lacking = "images" if not by_kind["images"] else "masks"
        raise CorpusError(f"{source}: no images below a folder {options[lacking]!r}; name it by the option {lacking}.")
    heads = {PurePosixPath(name).parts[0].lower() for name in by_kind["images"]}
    is_split = heads <= SPLITS.keys() and all(len(PurePosixPath(name).parts) > 1 for name in by_kind["images"])
    for name, path in by_kind["images"].items():
        yield Item(
            key=name,
            path=path,
            group=group_of(find, name),
            size=sizes[path],
            split=SPLITS[PurePosixPath(name).parts[0].lower()] if is_split else None,
            where={
                "mask": by_kind["masks"].get(name + options["mask_suffix"], ""),
                "promised": bool(options["classes"]),
            },
        )


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
            where={"mask": storage.join(folder, row["mask"]) if row.get("mask") else ""},
            attributes={name: row[name] for name in kept if row[name]},
        )
