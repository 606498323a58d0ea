"""Comparing evaluations of the same images: paired over seeds and groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medalign.errors import UserError
from medalign.evaluation.annotated.task import scored_of
from medalign_core.metrics.intervals import Difference, minus, paired_difference


def compare_annotated(
    first: Sequence[str],
    second: Sequence[str],
    *,
    metric: str = "",
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the mean difference of two methods, first less second, over evaluations that are paired by their order.

    Args:
        first: the evaluations of one method, one per seed.
        second: those of the other, of the same seeds in the same order.
        metric: any of the evaluations' metrics; their primary one if not given.
        replicates: resamples of seeds and groups.
        level: nominal coverage of the interval.
        seed: of the resamples.

    Raises:
        UserError: different numbers of evaluations, a metric that they do not have, or other images.
    """
    if len(first) != len(second) or not first:
        raise UserError(f"{len(first)} evaluations against {len(second)}; give one per seed on both sides.")
    sides = [[scored_of(uri) for uri in side] for side in (first, second)]
    known = sides[0][0]
    name = metric or known.primary
    for each in (*sides[0], *sides[1]):
        if name not in each.statistics:
            raise UserError(f"no metric {name!r}; there is: {', '.join(each.statistics)}.")
        if not np.array_equal(each.ids, known.ids):
            raise UserError("the evaluations are of different images; evaluate all of them on the same split.")
    pairs = [minus(a.statistics[name], b.statistics[name]) for a, b in zip(*sides, strict=True)]
    return paired_difference(pairs, known.groups, replicates=replicates, level=level, seed=seed)
