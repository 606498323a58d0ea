"""Linear assignment, batched: the best permutation for a table of affinities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def assign(affinity: Float[np.ndarray, "P N N"]) -> Int[np.ndarray, "P N"]:
    """Return argmax over permutations p of sum_i affinity[i, p(i)], for each of P problems (exact, O(N^3)).

    Among equal optima the one returned depends on the order of the columns; with all entries equal it is the
    identity. Who compares the answer with the identity must shuffle the columns first.

    Raises:
        ValueError: an entry that is nan or infinite.
    """
    from scipy.optimize import linear_sum_assignment  # here: settings import this floor, and scipy takes a while

    if not np.isfinite(affinity).all():
        raise ValueError("affinities must be finite; replace nan and inf before the assignment.")
    matching = np.empty(affinity.shape[:2], dtype=np.int64)
    for row, table in zip(matching, affinity, strict=True):
        row[:] = linear_sum_assignment(table, maximize=True)[1]
    return matching
