"""Format `image-folder`: a folder per class, perhaps below one per split; or a CSV (path,label,caption,group,split)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from medalign import storage
from medalign.data.items import Content, Item
from medalign.errors import CorpusError

OPTIONS: dict[str, Any] = {
    "group_pattern": "",  # a regular expression; its first capture group in the relative path is the row's group
    "split_by": "",  # the CSV column that holds the group; `group` if there is one
}
LICENCE = "unknown"
SUFFIXES = frozenset(".png .jpg .jpeg .jpe .tif .tiff .bmp .gif .webp .jp2 .j2k .pgm .ppm .pnm".split())
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the images of a folder, or the rows of a CSV whose paths are relative to it."""
    find = group_finder(options["group_pattern"])
    yield from _csv_items(source, options, find) if source.lower().endswith(".csv") else _folder_items(source, find)


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return the file as it is."""
    return Content(image=storage.read_bytes(item.path))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """Nothing beyond what every image undergoes."""
    return ()


def _folder_items(source: str, find: re.Pattern | None) -> Iterator[Item]:
    sizes = {path: size for path, size in storage.list_sizes(source).items() if is_image(path)}
    prefix = len(source.rstrip("/")) + 1
    tails = {path: PurePosixPath(path[prefix:]) for path in sizes}
    # A class may be called "test": the first folders are splits only if all of them are.
    by_split = all(len(tail.parts) > 1 and tail.parts[0].lower() in SPLITS for tail in tails.values())
    for path, tail in tails.items():
        folders = tail.parts[1:-1] if by_split else tail.parts[:-1]
        yield Item(
            key=str(tail),
            path=path,
            group=group_of(find, str(tail)),
            size=sizes[path],
            split=SPLITS[tail.parts[0].lower()] if by_split else None,
            label=folders[0] if folders else None,
        )


def _csv_items(source: str, options: dict[str, Any], find: re.Pattern | None) -> Iterator[Item]:
    try:
        rows = csv.DictReader(io.StringIO(storage.read_bytes(source).decode("utf-8-sig"), newline=""))
        columns = rows.fieldnames or []
    except UnicodeDecodeError as error:
        raise CorpusError(f"{source}: not UTF-8 text ({error.reason}); save the table as UTF-8.") from error
    column = options["split_by"] or ("group" if "group" in columns else "")
    for needed in filter(None, ("path", column)):
        if needed not in columns:
            raise CorpusError(f"{source}: no column {needed!r}; its columns are: {', '.join(columns) or 'none'}.")
    folder = source.rpartition("/")[0] or "."
    sizes = storage.list_sizes(folder)
    for number, row in enumerate(rows, start=2):
        tail = (row["path"] or "").strip()
        if tail.startswith("/") or "://" in tail or ".." in PurePosixPath(tail).parts:
            raise CorpusError(f"{source}:{number}: paths must be relative to the CSV's folder, without '..'.")
        split = (row.get("split") or "").strip().lower()
        if split and split not in SPLITS:
            raise CorpusError(f"{source}:{number}: split {split!r} is not one of {', '.join(SPLITS)}.")
        path = storage.join(folder, tail)
        yield Item(
            key=tail or f"row {number}",
            path=path if tail else "",
            group=((row[column] or "").strip() or tail) if column else group_of(find, tail),
            size=sizes.get(path, 0),
            split=SPLITS.get(split),
            label=(row.get("label") or "").strip() or None,
            caption=(row.get("caption") or "").strip() or None,
        )


def is_image(path: str) -> bool:
    """Tell whether a path is that of an image: its suffix says so, and it is not hidden."""
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts[-3:])
    return PurePosixPath(path).suffix.lower() in SUFFIXES and not hidden


def group_finder(pattern: str) -> re.Pattern | None:
    """Return the expression whose first capture group is a row's group; None where there is no pattern.

    Raises:
        CorpusError: no regular expression, or one without a capture group.
    """
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise CorpusError(f"group_pattern {pattern!r} is not a regular expression: {error}.") from error
    if compiled.groups < 1:
        raise CorpusError(f"group_pattern {pattern!r} has no capture group; write e.g. '(person\\d+)_'.")
    return compiled


def group_of(find: re.Pattern | None, tail: str) -> str:
    """Return the group of a relative path: what the expression captures, the path itself where there is none.

    Raises:
        CorpusError: the expression does not match.
    """
    if find is None:
        return tail
    match = find.search(tail)
    if not match or not match.group(1):
        # No file name here: it may identify somebody.
        raise CorpusError(
            f"group_pattern {find.pattern!r} does not match every path; add an alternative, e.g. '|([^/]+)$'."
        )
    return match.group(1)
