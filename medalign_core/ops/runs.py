"""Cutting sequences of different length into runs that are computed together: little padding, few runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def runs_of_like_length(lengths: Sequence[int], *, most: int, start: int) -> tuple[list[int], list[int]]:
    """Return an order of the sequences by rising length, and where in it each run ends.

    A run is padded to its longest, its last. Of all ways to cut the order, the one with the least

        sum over runs of (sequences * longest + start),

    by dynamic programming over the distinct lengths; a run of more than `most` sequences is then cut into such of
    `most`, whatever that costs.

    Args:
        lengths: of each sequence, at least one.
        most: sequences of a run, >= 1.
        start: what a run costs by itself, in places of a sequence, >= 0.

    Raises:
        ValueError: no sequences, or most < 1.
    """
    if not lengths or most < 1:
        raise ValueError(f"there must be sequences, and most >= 1, got {len(lengths)} and {most}.")
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    ordered = [lengths[place] for place in order]
    borders = [0, *(place for place in range(1, len(order)) if ordered[place] > ordered[place - 1]), len(order)]
    best: list[tuple[float, list[int]]] = [(0, [])]
    for to, end in enumerate(borders[1:], start=1):
        best.append(
            min(
                (best[since][0] + (end - begin) * ordered[end - 1] + start, [*best[since][1], end])
                for since, begin in enumerate(borders[:to])
            )
        )
    whole = [0, *best[-1][1]]
    return order, [end for begin, stop in pairwise(whole) for end in [*range(begin + most, stop, most), stop]]
