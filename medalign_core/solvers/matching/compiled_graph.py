"""One matching problem as the kernels see it: its valid nodes numbered anew, edge lists by node, and scratch."""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER, LARGEST, LINES, MARKS, ONCE

# of the lists of a graph's edges there are four: those that leave a node of s, enter it, and likewise of t
OUT_S, IN_S, OUT_T, IN_T = range(4)
FIRST, OTHER, NUMBER = 0, 4, 8  # where each kind begins in Graph.lists
GRADIENT, CORNER_GRADIENT, CLAMPED = range(3)  # Scratch.squares
# Scratch.lines and .marks, after what an assignment takes
PRICE, OWN, TOTAL, SUMS = range(LINES, LINES + 4)
BEST, FOUND, TRIAL, CORNER, LAST, NODES, BEGIN, COMPONENT, OWNER_P, OWNER_Q, NODES_S, NODES_T = range(MARKS, MARKS + 12)


class Graph(NamedTuple):
    """A problem over its n valid nodes; the arrays may be larger. A matching is an array p, -1 at unmatched nodes.

    Few arrays, since each costs the compiler a dozen values at every call.

    Attributes:
        unary: V, (N, N).
        lists: (12, max(N + 1, E)) int32: for list c of node i, lists[OTHER + c] holds the other ends of its edges and
            lists[NUMBER + c] their numbers, at places lists[FIRST + c, i], ..., lists[FIRST + c, i + 1] - 1.
        lookup: (2, N, N) int32, the number of the edge (i, j) of s, and of t, -1 where there is none.
        table: Q, (S, T); or (0, 0), and <x_e, y_f> + offset is evaluated on demand.
        x: (S, D).
        y: (T, D).
        offset: a number.
        weight: w.
    """

    unary: Any
    lists: Any
    lookup: Any
    table: Any
    x: Any
    y: Any
    offset: Any
    weight: Any


class Scratch(NamedTuple):
    """What the search of one problem writes to.

    Attributes:
        squares: (3, N, N).
        lines: (SUMS + 2, max(N + 1, T, D)).
        marks: (NODES_T + 1, N + 1) int64.
    """

    squares: Any
    lines: Any
    marks: Any


@njit(**ONCE)
@no_type_check
def order_nodes(valid, order, nodes_s, nodes_t):
    """List the valid nodes of s, and those of t in the given order; return how many there are."""
    count_s, count_t = 0, 0
    for i in range(len(valid)):
        if valid[i]:
            nodes_s[count_s] = i
            count_s += 1
        if valid[order[i]]:
            nodes_t[count_t] = order[i]
            count_t += 1
    return count_s


@njit(**INNER)
@no_type_check
def index_problem(vertex, edges_s, edges_t, nodes_s, nodes_t, graph, place):
    """Fill V, the edge lists and the lookups of `graph`; `place` is scratch, (N,)."""
    n, lists = len(nodes_s), graph.lists
    for i in range(n):
        for a in range(n):
            graph.unary[i, a] = vertex[nodes_s[i], nodes_t[a]]
    for side in range(2):
        edges, nodes, lookup = edges_s, nodes_s, graph.lookup[side]
        if side == 1:
            edges, nodes = edges_t, nodes_t
        for i in range(len(vertex)):
            place[i] = -1
        for i in range(n):
            place[nodes[i]] = i
            for j in range(n):
                lookup[i, j] = -1
        for end in range(2):
            c = 2 * side + end
            _list_edges(edges, place, end, n, lists[FIRST + c], lists[OTHER + c], lists[NUMBER + c])
        for i in range(n):
            for k in range(lists[FIRST + 2 * side, i], lists[FIRST + 2 * side, i + 1]):
                lookup[i, lists[OTHER + 2 * side, k]] = lists[NUMBER + 2 * side, k]


@njit(**INNER)
@no_type_check
def _list_edges(edges, place, end, n, first, other, number):
    """List the edges between valid nodes by one of their ends."""
    for i in range(n + 1):
        first[i] = 0
    for e in range(len(edges)):
        i, j = place[edges[e, end]], place[edges[e, 1 - end]]
        if i >= 0 and j >= 0:
            first[i] += 1
    total = 0
    for i in range(n):
        total += first[i]
        first[i] = total - first[i]
    for e in range(len(edges)):
        i, j = place[edges[e, end]], place[edges[e, 1 - end]]
        if i >= 0 and j >= 0:
            other[first[i]], number[first[i]] = j, e
            first[i] += 1
    for i in range(n, 0, -1):  # each first is now where the next list begins
        first[i] = first[i - 1]
    first[0] = 0


@njit(**INNER)
@no_type_check
def largest(table, line):
    """Return the largest absolute value, nan or inf if there is one; `line` is scratch.

    Without its sign a double compares as its bits do, nan above all, and those are compared with vector instructions.
    """
    bits = table.view(np.int64)
    most = np.int64(0)
    for row in range(bits.shape[0]):
        for column in range(bits.shape[1]):
            most = max(most, bits[row, column] & LARGEST)
    line.view(np.int64)[0] = most
    return line[0]
