"""Permutations that are keyed and never change, and the line that an epoch makes of a corpus's row groups. Pure."""

from __future__ import annotations

import numpy as np

from medalign_core.ops.draws import draw_seed


def permutation(size: int, *key: int | str) -> np.ndarray:
    """Return a keyed permutation of range(size).

    It sorts raw 64-bit words of Philox, a stream that is fixed by its definition: NumPy may change how its own
    `Generator.permutation` uses the stream, this cannot change.
    """
    words = np.random.Philox(key=draw_seed(*key)).random_raw(size)
    return np.argsort(words, kind="stable")


def line_rows(sizes: np.ndarray, places: np.ndarray, *key: int | str) -> np.ndarray:
    """Return the rows at some places of a line: the row groups in an order drawn from `key`, laid end to end.

    Args:
        sizes: rows of each row group, in the corpus's order.
        places: in [0, sum of sizes).
        key: of the permutation.
    """
    first_row = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    groups = permutation(len(sizes), *key)
    ends = np.cumsum(sizes[groups])
    place = np.searchsorted(ends, places, side="right")
    return first_row[groups[place]] + places - (ends[place] - sizes[groups[place]])
