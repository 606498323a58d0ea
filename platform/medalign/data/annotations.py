"""What the annotations of a corpus name: its classes, and how many boxes an image has at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medalign.data import manifest
from medalign.data.annotated_decode import Annotation
from medalign.data.reader import read_rows
from medalign.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a model of annotations must know of a corpus.

    Attributes:
        classes: their names: of labels and boxes sorted, of masks the background first.
        most_boxes: boxes of the image that has most of them.
    """

    classes: tuple[str, ...]
    most_boxes: int = 0


def name_classes(uris: Sequence[str], annotation: Annotation, splits: Sequence[str]) -> Named:
    """Return the classes of the labels, the masks or the boxes of several corpora together.

    Raises:
        CorpusError: a corpus without such annotations, or corpora whose masks mean different things.
    """
    corpora = {uri: manifest.read(uri) for uri in uris}
    if annotation == "masks":
        return Named(classes=_mask_classes(corpora))
    if annotation == "labels":
        for uri, corpus in corpora.items():
            if not corpus.classes:
                raise CorpusError(f"{uri}: its images have no labels; classification needs them.")
        return Named(classes=tuple(sorted({name for corpus in corpora.values() for name in corpus.classes})))
    names, most = set(), 0
    for uri, corpus in corpora.items():
        found = [_boxes(uri, split) for split in splits if split in corpus.splits]
        if not any(classes for classes, _ in found):
            raise CorpusError(f"{uri}: its images have no boxes; prepare it in format voc (without crops) or coco.")
        names |= {name for classes, _ in found for name in classes}
        most = max(most, *(count for _, count in found))
    return Named(classes=tuple(sorted(names)), most_boxes=most)


def _mask_classes(corpora: dict[str, manifest.Manifest]) -> tuple[str, ...]:
    first: tuple[str, ...] = ()
    for uri, corpus in corpora.items():
        if not corpus.mask_classes:
            raise CorpusError(f"{uri}: its images have no masks; prepare it in format masks or nifti, with classes=...")
        if first and corpus.mask_classes != first:
            raise CorpusError(f"{uri}: its masks are of {corpus.mask_classes}, those before it of {first}.")
        first = corpus.mask_classes
    return first


def _boxes(uri: str, split: str) -> tuple[set[str], int]:
    names: set[str] = set()
    most = 0
    for batch in read_rows(uri, split, ("boxes",)):
        for said in batch["boxes"].to_pylist():
            names |= {box["label"] for box in said or ()}
            most = max(most, len(said or ()))
    return names, most
