"""What the values of a mask mean: from a file's grey levels or a volume's labels to class indices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from medalign.data.images import ImageReject
from medalign.errors import CorpusError

IGNORED = 255  # a mask's value where nothing is known
OPTIONS: dict[str, Any] = {
    "classes": "background,object",  # what the values mean, from 0 on; "" for a source without masks
    "values": "",  # each class's level, e.g. "0,205,420"; "": 0 to C - 1, or for two classes dark and light
}


def mask_classes(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes that a format's options name, the background first; none where it has no masks.

    Raises:
        CorpusError: fewer than two, too many, one twice, or values that do not fit them.
    """
    names = tuple(name.strip() for name in str(options.get("classes", "")).split(",") if name.strip())
    if not names:
        return ()
    if not 2 <= len(names) <= IGNORED or len(set(names)) != len(names):
        raise CorpusError(
            f"classes must be 2 to {IGNORED} different names, the background first, got {options['classes']!r}."
        )
    values_of(options, len(names))
    return names


def values_of(options: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """Return the source's value of each class; empty where the options leave it open.

    Raises:
        CorpusError: not one whole number per class.
    """
    text = str(options.get("values", "")).strip()
    if not text:
        return ()
    try:
        found = tuple(int(value) for value in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count or len(set(found)) != count:
        raise CorpusError(f"values must be {count} different whole numbers, one for each of classes, got {text!r}.")
    return found


def to_classes(levels: ndarray, options: Mapping[str, Any]) -> ndarray:
    """Return the class indices (H, W) uint8 of a mask's own levels (H, W).

    With two classes and no `values` the second is where the level is at least 1, or 128 if some level is above 1: masks
    are published as 0 and 1, as 0 and 255, and as JPEG with shades between.

    Raises:
        ImageReject: a level that is no class's.
    """
    names = mask_classes(options)
    values = values_of(options, len(names))
    if not values and len(names) == 2:
        return (levels >= (1 if levels.max(initial=0) <= 1 else 128)).astype(np.uint8)
    found = np.full(levels.shape, IGNORED, dtype=np.uint8)
    for place, value in enumerate(values or range(len(names))):
        found[levels == value] = place
    if (unknown := levels[found == IGNORED]).size:
        raise ImageReject(f"a mask with the value {unknown.flat[0]:g}, which is no class's")
    return found
