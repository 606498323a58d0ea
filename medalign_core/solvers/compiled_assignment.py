"""Linear assignment, compiled: rows take their best columns at given prices, the rest by shortest augmenting paths."""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_sources import checksum

# a kernel that only kernels call: no wrapper for Python and no cache of its own, both take long to make, and no counts
# of references, atomic operations that took two thirds of the time: the entry point holds all arrays, none is made
INNER: dict[str, Any] = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
ONCE: dict[str, Any] = {"inline": "always"}  # a kernel with one caller: what is linked into another is optimised again
LARGEST = np.int64(0x7FFFFFFFFFFFFFFF)
LINES, MARKS = 3, 3  # rows of scratch that an assignment takes, of floats and of integers


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


@njit(**ONCE)
@no_type_check
def _take_best_columns(table, price, column_of, row_of, cost):
    """Give every row its best column at these prices, if it is still free; return how many rows got none."""
    bits = cost.view(np.int64)
    n, free = len(price), 0
    for i in range(n):
        for j in range(n):
            cost[j] = price[j] - table[i, j] + 0.0
        best = _least(bits)
        if row_of[best] < 0:
            row_of[best] = i
            column_of[i] = best
        else:
            free += 1
    return free


@njit(**ONCE)
@no_type_check
def _outbid(table, price, column_of, row_of, cost, bids):
    """Let rows without a column take their best from its owner, at a price at which their second best is as good.

    The row outbid goes on. What is assigned stays best for its row, and most rows find a column this way, each bid for
    the price of one look at a row; a few that would bid for long are left.
    """
    bits = cost.view(np.int64)
    n = len(price)
    for start in range(n):
        i = start
        while column_of[i] < 0 and bids > 0:
            bids -= 1
            for j in range(n):
                cost[j] = price[j] - table[i, j] + 0.0
            best = _least(bits)
            lowest = cost[best]
            cost[best] = np.inf
            second = _least(bits)
            owner = row_of[best]
            if owner >= 0 and cost[second] <= lowest and row_of[second] < 0:
                best, owner = second, -1
            elif owner >= 0 and not cost[second] > lowest:
                break
            else:
                price[best] += cost[second] - lowest if n > 1 else 0.0
            row_of[best] = i
            column_of[i] = best
            if owner >= 0:
                column_of[owner] = -1
                i = owner


@njit(**INNER)
@no_type_check
def _augment(table, price, column_of, row_of, start, lines, marks):
    """Assign the free row `start` along a shortest alternating path and raise the prices on the way."""
    n = len(price)
    slack, final, length = lines[0], lines[1], lines[2, :n]
    behind, closed = marks[0], marks[1]
    bits = length.view(np.int64)
    for j in range(n):
        slack[j] = np.inf
    i, offset, count = start, 0.0, 0
    while True:
        for j in range(n):  # shorten the ways through row i; closed columns have slack -inf and get length inf
            through = price[j] - table[i, j] - offset
            shorter = through < slack[j]
            behind[j] = i if shorter else behind[j]
            slack[j] = through if shorter else slack[j]
            length[j] = np.inf if slack[j] == -np.inf else slack[j] + 0.0  # + 0.0: no negative zero, its bits differ
        end = _least(bits)
        reached = length[end]
        if row_of[end] >= 0:
            for j in range(end + 1, n):  # a free column at that length ends the search
                end = j if length[j] == reached and row_of[j] < 0 else end
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
def assign_table(table, price, column_of, lines, marks):
    """Write argmax over permutations of sum_i table[i, column_of[i]] and prices of the columns that prove it.

    Args:
        table: float64, its first n rows and columns finite.
        price: (n,), the columns' dual, read and written. Any finite prices will do; those of a similar table, or of
            `start_prices`, save most of the work.
        column_of: (n,) int64, written.
        lines: (LINES, at least n) float64, scratch.
        marks: (MARKS, at least n) int64, scratch.
    """
    n = len(price)
    row_of = marks[2]
    for i in range(n):
        column_of[i] = -1
        row_of[i] = -1
    if _take_best_columns(table, price, column_of, row_of, lines[2, :n]) == 0:
        return
    _outbid(table, price, column_of, row_of, lines[2, :n], 2 * n)
    for i in range(n):
        if column_of[i] < 0:
            _augment(table, price, column_of, row_of, i, lines, marks)


@njit(**INNER)
@no_type_check
def start_prices(table, price):
    """Write the best that each column offers."""
    for i in range(len(price)):
        for j in range(len(price)):
            price[j] = table[i, j] if i == 0 or table[i, j] > price[j] else price[j]


@no_type_check
def _assign_tables_of(sources):
    @njit(cache=True, nogil=True, no_cfunc_wrapper=True)
    @no_type_check
    def assign_tables(tables, matching):
        """Write matching[p] for each of P tables (P, n, n)."""
        if sources < 0:
            return
        size = tables.shape[1]
        lines, marks = np.empty((LINES + 1, size)), np.empty((MARKS, size), np.int64)
        for p in range(len(tables)):
            start_prices(tables[p], lines[LINES])
            assign_table(tables[p], lines[LINES], matching[p], lines, marks)

    return assign_tables


assign_tables = _assign_tables_of(checksum(__file__))
