"""Format `split-json`: published few-shot splits, a JSON of {"train" | "val" | "test": [[path, label, class], ...]}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from medalign import storage
from medalign.data.formats.image_folder import group_finder, group_of, transforms
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

__all__ = ["LICENCE", "OPTIONS", "list_items", "read_item", "transforms"]

OPTIONS: dict[str, Any] = {
    "images": "",  # the folder that its paths start from, relative to the JSON's: "images" for OxfordPets
    "group_pattern": "",  # a regular expression; its first capture group in the path is the row's group
}
LICENCE = "unknown"
SPLITS = ("train", "val", "test")


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the rows of the file: CoOp's split_zhou_*.json, and BiomedCoOp's, which has the same form."""
    find, folder = group_finder(options["group_pattern"]), source.rpartition("/")[0] or "."
    images = storage.join(folder, options["images"]) if options["images"] else folder
    sizes = storage.list_sizes(images)
    named: dict[int, str] = {}
    for split, number, entry in _entries(source):
        where = f"{source}, {split}[{number}]"
        tail, label, name = _row(entry, where)
        if named.setdefault(label, name) != name:
            raise CorpusError(f"{where}: label {label} is {name!r} here and {named[label]!r} before; one name each.")
        path = storage.join(images, tail)
        if path not in sizes:
            raise CorpusError(
                f"{where}: there is no image {tail}; set --option images=FOLDER to where the paths start."
            )
        yield Item(
            key=f"{split}/{tail}",
            path=path,
            group=group_of(find, tail),
            size=sizes[path],
            split=split,
            label=name,
        )


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return the file as it is."""
    return Content(image=storage.read_bytes(item.path))


def _entries(source: str) -> Iterator[tuple[str, int, Any]]:
    try:
        document = json.loads(storage.read_bytes(source))
    except ValueError as error:
        raise CorpusError(f"{source}: not a JSON file ({error}).") from error
    if not isinstance(document, dict) or not {"train", "test"} <= set(document):
        raise CorpusError(f'{source}: must be {{"train": [...], "val": [...], "test": [...]}}.')
    for split in SPLITS:
        rows = document.get(split, [])
        if not isinstance(rows, list):
            raise CorpusError(f"{source}: {split!r} must be a list of [path, label, class].")
        for number, entry in enumerate(rows):
            yield split, number, entry


def _row(entry: Any, where: str) -> tuple[str, int, str]:
    if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and isinstance(entry[2], str)):
        raise CorpusError(f"{where}: must be [path, label, class], got {str(entry)[:80]}.")
    tail, label, name = entry
    if tail.startswith("/") or "://" in tail or ".." in PurePosixPath(tail).parts:
        raise CorpusError(f"{where}: paths must be relative to the folder of images, without '..'.")
    if not str(label).isdigit():
        raise CorpusError(f"{where}: the label must be a number >= 0, got {label!r}.")
    return tail, int(label), name
