"""Which images a method may learn from: a pure function of labels, shots and seed. Supports are nested over shots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from medalign.errors import CorpusError
from medalign_core.ops.draws import draw_seed


def draw_support(
    labels: Int[ndarray, " N"],
    classes: Sequence[str],
    *,
    shots: int,
    seed: int,
    sampling: Literal["balanced", "prevalence"] = "balanced",
) -> Int[ndarray, " S"]:
    """Return the places of the support, by rising place.

    Every class has a random order of its own, keyed by the seed; the support takes the first of each. So the support
    of fewer shots is part of that of more, and one of a seed depends on no other class.

    Args:
        labels: (N,) class index of each image that may be drawn; -1 is never drawn.
        classes: the names, for errors.
        shots: per class; with "prevalence" shots * C images in all, shared by the largest remainders of the classes'
            frequencies, each class at least one.
        seed: of the draw.
        sampling: see `shots`.

    Raises:
        CorpusError: a class has no image, or fewer than its share.
    """
    members = [np.flatnonzero(labels == index) for index in range(len(classes))]
    counts = [len(places) for places in members]
    if sampling == "balanced":
        wanted = [shots] * len(classes)
    else:
        wanted = [min(want, have) for want, have in zip(_by_prevalence(counts, shots), counts, strict=True)]
    for name, want, have in zip(classes, wanted, counts, strict=True):
        if have < max(want, 1):
            raise CorpusError(f"class {name!r} has {have} train images, fewer than the {want} that a support needs.")
    drawn = [
        places[np.random.default_rng(draw_seed(seed, "support", index)).permutation(len(places))[:want]]
        for index, (places, want) in enumerate(zip(members, wanted, strict=True))
    ]
    return np.sort(np.concatenate(drawn))


def _by_prevalence(counts: Sequence[int], shots: int) -> list[int]:
    """Share shots * C images in proportion to counts by largest remainders, at least one each."""
    total, whole = shots * len(counts), sum(counts)
    if not whole:
        return [1] * len(counts)
    exact = [total * count / whole for count in counts]
    wanted = [int(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda place: wanted[place] - exact[place])
    for place in by_remainder[: total - sum(wanted)]:
        wanted[place] += 1
    return [max(1, want) for want in wanted]
