"""What a reader says: items (what there is, small, no pixels) and content (one item's picture and words). Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row to be: where its picture is, and what is known without opening it.

    Attributes:
        key: the path relative to the source, and the part within it; unique. Only its salted hash is stored.
        path: URI of the file.
        group: the patient, photograph or volume it belongs to. Only its salted hash is stored.
        size: bytes of the file: a changed source has another fingerprint.
        split: `train`, `val` or `test` where the source says so, else None.
        label: class name, or None.
        caption: a sentence about the picture, or None.
        where: what the reader needs to find the part within the file (JSON values only).
        words: what is said about the picture, by column of `dialogue.COLUMNS`, as the source has it (JSON values only).
        volume: the volume that it is a slice of, or None. Only its salted hash is stored.
        attributes: site, scanner, sex, ...: stored as they are, so nothing that identifies somebody may be among them.
    """

    key: str
    path: str
    group: str
    size: int = 0
    split: str | None = None
    label: str | None = None
    caption: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    volume: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the item's values; the late-comers only if there are any, as it was before items had them."""
        late = ("words", "volume", "attributes")
        return {key: value for key, value in asdict(self).items() if value or key not in late}

    def dumps(self) -> str:
        """Return the item as one line of JSON."""
        return json.dumps(self.as_dict(), sort_keys=True)

    @staticmethod
    def loads(text: str) -> Item:
        """Return the item of a line of JSON."""
        return Item(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Box:
    """A labelled rectangle in pixels, right and bottom exclusive."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a reader found in an item.

    Attributes:
        image: an encoded file, or an array (H, W) or (H, W, 3).
        mask: (H, W) uint8 class indices, as large as the image.
        slice: the picture's place in its volume.
        spacing: mm between slices, rows and columns.
    """

    image: bytes | np.ndarray
    modality: str | None = None
    body_part: str | None = None
    caption: str | None = None
    boxes: tuple[Box, ...] | None = None
    mask: np.ndarray | None = None
    slice: int | None = None
    spacing: tuple[float, ...] | None = None


class Reader(Protocol):
    """A format: a module with two pure functions, and the options they take.

    Attributes:
        OPTIONS: every key a user may give, with its default.
        LICENCE: what the source is under if the user does not say.
    """

    OPTIONS: dict[str, Any]
    LICENCE: str

    def list_items(self, source: str, options: dict[str, Any]) -> Iterable[Item]:
        """Return what there is, in any order, decoding no picture."""

    def read_item(self, item: Item, options: dict[str, Any]) -> Content:
        """Return one item's content; an `ImageReject` or any decoder's error quarantines the item."""

    def transforms(self, options: dict[str, Any]) -> tuple[str, ...]:
        """Return what is done to pixels, a sentence each."""


def hashed(kind: str, text: str, *, salt: str) -> str:
    """Return the 24 hex digits that stand for a name which may identify somebody."""
    return hashlib.blake2b(f"{kind}\x1f{salt}\x1f{text}".encode(errors="surrogateescape"), digest_size=12).hexdigest()
