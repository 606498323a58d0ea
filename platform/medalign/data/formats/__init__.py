"""The formats a corpus can be prepared from: one reader a file, and the table that names them."""

from __future__ import annotations

import importlib
from typing import Any, cast

from medalign.data.items import Reader
from medalign.data.manifest import Task
from medalign.errors import CorpusError

FORMATS = {
    "image-folder": "image_folder",
    "split-json": "split_json",
    "medmnist": "medmnist",
    "dicom": "dicom",
    "voc": "voc",
    "packaged": "packaged",
    "llava-med": "llava_med",
    "roco": "roco",
    "vqa-rad": "vqa_rad",
    "slake": "slake",
    "path-vqa": "path_vqa",
    "multiple-choice": "multiple_choice",
    "masks": "masks",
    "nifti": "nifti",
    "coco": "coco",
}
NOT_PLACES = ("packaged",)  # formats whose source is not a path or URI
_TASKS: dict[str, Task] = {
    "llava-med": "chat",
    "roco": "chat",
    "vqa-rad": "vqa",
    "slake": "vqa",
    "path-vqa": "vqa",
    "multiple-choice": "vqa",
    "masks": "annotated",
    "nifti": "annotated",
    "coco": "annotated",
}


def task(name: str) -> Task:
    """Return what the rows of a format hold."""
    return _TASKS.get(name, "images")


def reader(name: str) -> Reader:
    """Return the reader of a format.

    Raises:
        CorpusError: no format of that name.
    """
    if name not in FORMATS:
        raise CorpusError(f"unknown format {name!r}; the formats are: {', '.join(FORMATS)}.")
    return cast(Reader, importlib.import_module(f"medalign.data.formats.{FORMATS[name]}"))


def complete(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return a format's options with defaults filled in.

    Raises:
        CorpusError: an option that the format does not have, or of another type than its default.
    """
    defaults = reader(name).OPTIONS
    for key, value in given.items():
        if key not in defaults:
            have = ", ".join(defaults) or "none"
            raise CorpusError(f"format {name} has no option {key!r}; it has: {have}.")
        default = defaults[key]
        if default is not None and type(value) is not type(default):
            raise CorpusError(f"option {key} of format {name} is a {type(default).__name__}, got {value!r}.")
    return {**defaults, **given}
