"""The images of a split with all that is said of them, decoded as they are measured on; what is left out is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy import ndarray

from medalign.data import images, manifest
from medalign.data.annotated_decode import plain_view
from medalign.data.decode import View, open_image
from medalign.data.reader import read_rows
from medalign.evaluation.annotated.shifts import shift_image

COLUMNS = ("id", "group", "label", "mask", "boxes", "volume", "slice", "spacing", "attributes", "modality", "body_part")
OWN_ATTRIBUTES = ("modality", "body_part")


@dataclass
class LeftOut:
    """How many images of a split were no use, by reason."""

    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        """Count one more."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def notes(self, split: str) -> list[str]:
        """Say so in words."""
        return [f"{n:,} images of the {split} split {why} and were left out." for why, n in self.reasons.items()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One image of a split.

    Attributes:
        view: its pixels (3, S, S) as the model reads them; None where only annotations were read.
        label: class name, or None.
        mask: (H, W) class indices of the stored image, or None.
        boxes: of the stored image, or None.
        volume: what it is a slice of, or None; `slice` its place there.
        spacing: mm between slices, rows and columns, or None.
        attributes: by name: site, sex, ...; modality and body part too where the corpus knows them.
    """

    id: str
    group: str
    size: tuple[int, int]
    view: View | None
    label: str | None
    mask: ndarray | None
    boxes: list[dict[str, Any]] | None
    volume: str | None
    slice: int | None
    spacing: tuple[float, ...] | None
    attributes: dict[str, str]


def read_examples(
    corpus: str,
    split: str,
    *,
    size: int | None,
    fit: Literal["whole", "centre"],
    left_out: LeftOut,
    shift: str = "",
) -> Iterator[Example]:
    """Yield a split's images in the corpus's order; one that cannot be decoded is counted.

    Args:
        corpus: the corpus's URI.
        split: which split.
        size: side of the view; None reads annotations alone.
        fit: what the view shows of the image; see annotated_decode.py.
        left_out: is counted up on the way.
        shift: what is done to the images; see shifts.py.

    Raises:
        CorpusError: no corpus, or no images of that split.
    """
    have = manifest.columns_of(manifest.read(corpus).task).names
    columns = tuple(name for name in (*COLUMNS, "width", "height") if name in have)
    for batch in read_rows(corpus, split, columns=(*columns, *(("image",) if size else ()))):
        for row in batch.to_pylist():
            try:
                yield _example(row, size=size, fit=fit, shift=shift)
            except ValueError:
                left_out.count("could not be decoded")


def _example(row: dict[str, Any], *, size: int | None, fit: Literal["whole", "centre"], shift: str) -> Example:
    attributes = {each["name"]: each["value"] for each in row.get("attributes") or ()}
    attributes |= {name: row[name] for name in OWN_ATTRIBUTES if row.get(name) and name not in attributes}
    mask, spacing = row.get("mask"), row.get("spacing")
    view = None
    if size:
        image = open_image(row["image"])
        view = plain_view(shift_image(image, shift, key=row["id"]) if shift else image, size, fit=fit)
    return Example(
        id=row["id"],
        group=row["group"],
        size=(row["width"], row["height"]),
        view=view,
        label=row["label"],
        mask=images.decode_mask(mask) if mask is not None else None,
        boxes=row.get("boxes"),
        volume=row.get("volume"),
        slice=row.get("slice"),
        spacing=tuple(spacing) if spacing else None,
        attributes=attributes,
    )
