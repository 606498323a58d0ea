"""Linear assignment, batched: the best permutation, or partial matching, for a table of affinities."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.backends import compiled_available


def assign(
    affinity: Float[np.ndarray, "P N M"],
    *,
    partial: bool = False,
    backend: Literal["auto", "numpy", "compiled"] = "auto",
) -> Int[np.ndarray, "P N"]:
    """Return argmax over matchings p of sum_i affinity[i, p(i)], for each of P problems (exact, O(N^3)).

    Full: p is a permutation, or with N > M or N < M matches as many rows as there are columns to match; the rest of the
    rows have p(i) = -1. Partial: rows and columns may stay unmatched at 0, and do where a pair would not gain.

    Among equal optima the one returned depends on the order of the columns, and on the backend; with all entries equal
    it may be the identity. Who compares the answer with the identity must shuffle the columns first.

    Args:
        affinity: finite; rows to columns.
        partial: see above.
        backend: "compiled" is ours (shortest augmenting paths), "numpy" is SciPy's; "auto" takes the first if it can.

    Raises:
        ValueError: an entry that is nan or infinite, or an unknown backend.
        ImportError: backend "compiled" without numba.
    """
    if not np.isfinite(affinity).all():
        raise ValueError("affinities must be finite; replace nan and inf before the assignment.")
    if backend not in ("auto", "numpy", "compiled"):
        raise ValueError(f"backend must be 'auto', 'numpy' or 'compiled', got {backend!r}.")
    gains = np.maximum(affinity, 0) if partial else affinity
    if backend == "compiled" or (backend == "auto" and compiled_available()):
        matching = _assign_compiled(gains)
    else:
        matching = _assign_scipy(gains)
    if partial:
        paid = np.take_along_axis(affinity, np.maximum(matching, 0)[:, :, None], axis=2)[:, :, 0]
        matching[paid <= 0] = -1
    return matching


def _assign_scipy(affinity: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # here: settings import this floor, and scipy takes a while

    matching = np.full(affinity.shape[:2], -1, dtype=np.int64)
    for row, table in zip(matching, affinity, strict=True):
        rows, columns = linear_sum_assignment(table, maximize=True)
        row[rows] = columns
    return matching


def _assign_compiled(affinity: np.ndarray) -> np.ndarray:
    from medalign_core.solvers.compiled_assignment import assign_tables

    problems, rows, columns = affinity.shape
    tables = np.ascontiguousarray(affinity, dtype=np.float64)
    if rows != columns:  # rows or columns that pay the same everywhere decide nothing
        size = max(rows, columns)
        tables = np.zeros((problems, size, size))
        tables[:, :rows, :columns] = affinity
    matching = np.empty(tables.shape[:2], dtype=np.int64)
    assign_tables(tables, matching)
    matching = matching[:, :rows]
    matching[matching >= columns] = -1
    return matching
