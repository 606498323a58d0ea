"""Linear assignment, compiled: rows take their best columns at given prices, the rest by shortest augmenting paths."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

# a kernel that only kernels call: no wrapper for Python, no cache of its own, both take long to make
INNER: dict[str, Any] = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
LARGEST = np.int64(0x7FFFFFFFFFFFFFFF)


@njit(**INNER)
@no_type_check
def _least(bits):
    """Return the place of the least of some doubles, given by their bits.

    The bits of a double, those below the sign flipped where it is negative, are integers of the same order, and a
    least integer is found with vector instructions, which the compiler withholds from floats for fear of nan.
    """
    least = LARGEST
    for j in range(len(bits)):
        least = min(least, bits[j] ^ ((bits[j] >> 63) & LARGEST))
    least ^= (least >> 63) & LARGEST
    place = 0
    while bits[place] != least:
        place += 1
    return place


@njit(**INNER)
@no_type_check
def _take_best_columns(table, price, column_of, row_of, cost):
    """Give every row its best column at these prices, if it is still free."""
    bits = cost.view(np.int64)
    for i in range(len(price)):
        for j in range(len(price)):
            cost[j] = price[j] - table[i, j] + 0.0
        best = _least(bits)
        if row_of[best] < 0:
            row_of[best] = i
            column_of[i] = best


@njit(**INNER)
@no_type_check
def _relax(table, price, offset, i, slack, behind, length):
    """Shorten the ways to all open columns through row i; closed ones have slack -inf and get length inf."""
    for j in range(len(price)):
        through = price[j] - table[i, j] - offset
        shorter = through < slack[j]
        behind[j] = i if shorter else behind[j]
        slack[j] = through if shorter else slack[j]
        length[j] = np.inf if slack[j] == -np.inf else slack[j] + 0.0  # + 0.0: no negative zero, its bits differ


@njit(**INNER)
@no_type_check
def _nearest(length, row_of):
    """Return the column nearest by, a free one if there is any at that length."""
    end = _least(length.view(np.int64))
    if row_of[end] >= 0:
        for j in range(end + 1, len(length)):
            end = j if length[j] == length[end] and row_of[j] < 0 else end
    return end


@njit(**INNER)
@no_type_check
def _augment(table, price, column_of, row_of, start, work):
    """Assign the free row `start` along a shortest alternating path and raise the prices on the way."""
    slack, final, length, behind, closed = work
    slack[:] = np.inf
    i, offset, count = start, 0.0, 0
    while True:
        _relax(table, price, offset, i, slack, behind, length)
        end = _nearest(length, row_of)
        reached = length[end]
        if row_of[end] < 0:
            break
        slack[end] = -np.inf
        final[end] = reached
        closed[count] = end
        count += 1
        i = row_of[end]
        offset = price[end] - table[i, end] - reached
    for k in range(count):
        price[closed[k]] += reached - final[closed[k]]
    while True:
        i = behind[end]
        row_of[end] = i
        column_of[i], end = end, column_of[i]
        if i == start:
            return


@njit(**INNER)
@no_type_check
def assign_table(table, price, column_of, warm):
    """Write argmax over permutations of sum_i table[i, column_of[i]] and prices of the columns that prove it.

    Args:
        table: (n, n) float64, C order, finite.
        price: (n,), the columns' dual; read when `warm`, and written.
        column_of: (n,) int32, written.
        warm: start from the given prices (any are correct; those of a similar table save most of the work).
    """
    n = len(price)
    row_of = np.full(n, -1, dtype=np.int64)
    column_of[:] = -1
    if not warm:
        price[:] = table[0]
        for i in range(1, n):
            for j in range(n):
                price[j] = table[i, j] if table[i, j] > price[j] else price[j]
    work = np.empty(n), np.empty(n), np.empty(n), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    _take_best_columns(table, price, column_of, row_of, work[2])
    for i in range(n):
        if column_of[i] < 0:
            _augment(table, price, column_of, row_of, i, work)


@njit(cache=True, nogil=True)
@no_type_check
def assign_tables(tables, matching):
    """Write matching[p] for each of P tables (P, n, n)."""
    price = np.empty(tables.shape[1])
    for p in range(len(tables)):
        assign_table(tables[p], price, matching[p], False)
