"""The labelled images of a corpus split, decoded as for a test, in batches; what had to be left out is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from medalign.data.decode import decode_image
from medalign.data.manifest import Manifest
from medalign.data.reader import read_rows
from medalign.errors import CorpusError
from medalign.evaluation.result import Samples

BATCH = 64
BROKEN = (OSError, ValueError, SyntaxError)  # what Pillow raises for broken bytes


@dataclass
class LeftOut:
    """How many rows of a split were no use: they have no label, or their image could not be decoded."""

    unlabelled: int = 0
    unreadable: int = 0

    def notes(self, split: str) -> list[str]:
        """Say so in words."""
        counts = {"have no label": self.unlabelled, "could not be decoded": self.unreadable}
        return [f"{n:,} images of the {split} split {why} and were left out." for why, n in counts.items() if n]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledBatch:
    """Up to `BATCH` images of a split with what is known of them."""

    images: UInt8[ndarray, "B 3 S S"]
    samples: Samples


def check_splits(manifest: Manifest, corpus: str) -> None:
    """Check that a probe can be fitted and tested.

    Raises:
        CorpusError: no `train` or no `test` split, or fewer than two classes in `train`; with the way out.
    """
    for name in ("train", "test"):
        split = manifest.splits.get(name)
        if split is None or not split.rows:
            have = ", ".join(sorted(manifest.splits)) or "none"
            raise CorpusError(
                f"{corpus}: no {name!r} split to probe with (it has: {have}); "
                "prepare it again with a share for it, or give another corpus."
            )
        if not split.classes:
            raise CorpusError(f"{corpus}: no image of the {name!r} split has a label; a probe needs labels.")
    if len(manifest.splits["train"].classes) < 2:
        only = next(iter(manifest.splits["train"].classes))
        raise CorpusError(f"{corpus}: the 'train' split has one class ({only}); a probe needs two.")


def labelled_batches(
    corpus: str, split: str, *, classes: tuple[str, ...], size: int, left_out: LeftOut
) -> Iterator[LabelledBatch]:
    """Yield a split's labelled images in the corpus's order, each decoded to (3, size, size).

    Args:
        corpus: the corpus's URI.
        split: which split.
        classes: of the manifest; a label's index is its place there.
        size: height and width.
        left_out: is counted up on the way.
    """
    place = {name: index for index, name in enumerate(classes)}
    images: list[ndarray] = []
    known: list[tuple[str, str, int]] = []
    for batch in read_rows(corpus, split, columns=("id", "group", "label", "image")):
        for row in batch.to_pylist():
            if row["label"] is None:
                left_out.unlabelled += 1
                continue
            try:
                images.append(decode_image(row["image"], size))
            except BROKEN:
                left_out.unreadable += 1
                continue
            known.append((row["id"], row["group"], place[row["label"]]))
            if len(images) == BATCH:
                yield _batch(images, known)
                images, known = [], []
    if images:
        yield _batch(images, known)


def gather(parts: list[Samples]) -> Samples:
    """Return the samples of several batches as one."""
    return Samples(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "groups", "labels")}
    )


def _batch(images: list[ndarray], known: list[tuple[str, str, int]]) -> LabelledBatch:
    ids, groups, labels = zip(*known, strict=True)
    samples = Samples(
        ids=np.array(ids, dtype=object), groups=np.array(groups, dtype=object), labels=np.array(labels, dtype=np.int64)
    )
    return LabelledBatch(images=np.stack(images), samples=samples)
