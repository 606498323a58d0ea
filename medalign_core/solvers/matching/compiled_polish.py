"""Polish of a matching, compiled: the exchange of partners that gains most, until none gains."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER, ONCE
from medalign_core.solvers.matching.compiled_graph import (
    CORNER_GRADIENT,
    FIRST,
    GRADIENT,
    NUMBER,
    OTHER,
    OWN,
    OWNER_P,
    TOTAL,
)
from medalign_core.solvers.matching.compiled_objective import add_nodes, between, edge_pays, gradient_at


@njit(**INNER)
@no_type_check
def polish(graph, p, floor, partial, scratch):
    """Make the exchange that gains most until none gains more than `floor`; return whether that came true.

    An exchange gives node i the node a of t; the owner j of a takes what i had. In the partial mode j may also be left
    without, and i may drop what it has. The scratch's gradient is overwritten by that at p.
    """
    n, gradient, moved = len(p), scratch.squares[GRADIENT], scratch.squares[CORNER_GRADIENT]
    gradient_at(graph, p, gradient)
    for i in range(n):
        if not partial:
            _gather(gradient, p, i, moved)
    for _ in range(4 * n):
        if partial:
            gain, i, a, j, b = _best_move(graph, p, gradient, scratch)
        else:
            gain, i, a, j, b = _best_swap(graph, p, moved, scratch)
        if gain <= floor:
            return True
        _rematch(graph, p, gradient, i, np.int64(-1))  # a literal would be compiled anew
        if j >= 0:
            _rematch(graph, p, gradient, j, b)
        if a >= 0:
            _rematch(graph, p, gradient, i, a)
        if not partial:
            _regather(graph, gradient, p, i, j, moved)
    return False


@njit(**INNER)
@no_type_check
def _rematch(graph, p, gradient, i, a):
    add_nodes(graph, p, i, i + 1, -1.0, gradient)
    p[i] = a
    add_nodes(graph, p, i, i + 1, 1.0, gradient)


@njit(**INNER)
@no_type_check
def _gather(gradient, p, i, moved):
    """Write to moved[i, j] what i gains by the partner of j in place of its own."""
    own = gradient[i, p[i]]
    for j in range(len(p)):
        moved[i, j] = gradient[i, p[j]] - own


@njit(**ONCE)
@no_type_check
def _regather(graph, gradient, p, i, j, moved):
    """Follow the exchange of the partners of i and j: two columns, and the rows of these nodes and their neighbours."""
    for k in range(len(p)):
        moved[k, i], moved[k, j] = moved[k, j], moved[k, i]
    for node in (i, j):
        _gather(gradient, p, node, moved)
        for side in range(2):
            for k in range(graph.lists[FIRST + side, node], graph.lists[FIRST + side, node + 1]):
                _gather(gradient, p, np.int64(graph.lists[OTHER + side, k]), moved)


@njit(**ONCE)
@no_type_check
def _best_swap(graph, p, moved, scratch):
    """Return (gain, i, a, j, b) of the best exchange in a permutation: i gets a from j, who gets b."""
    n = len(p)
    gains = scratch.lines[TOTAL]
    best, first, second = -np.inf, np.int64(0), np.int64(0)  # literals would compile the caller anew
    for i in range(n):
        for j in range(i + 1, n):
            gains[j] = moved[i, j] + moved[j, i]
        for side in range(2):
            for k in range(graph.lists[FIRST + side, i], graph.lists[FIRST + side, i + 1]):
                j, e = graph.lists[OTHER + side, k], graph.lists[NUMBER + side, k]
                if j > i:  # an edge between the two: the gradients count it as if the other end stayed
                    gains[j] += edge_pays(graph, e, p[i], p[j]) + edge_pays(graph, e, p[j], p[i])
        for j in range(i + 1, n):
            if gains[j] > best:
                best, first, second = gains[j], i, j
    return best, first, p[second], second, p[first]


@njit(**ONCE)
@no_type_check
def _best_move(graph, p, gradient, scratch):
    """Return (gain, i, a, j, b) of the best exchange in a partial matching; a, j or b are -1 where there is none."""
    n = len(p)
    owner, own = scratch.marks[OWNER_P], scratch.lines[OWN]
    for a in range(n):
        owner[a] = -1
    for i in range(n):
        own[i] = 0.0
        if p[i] >= 0:
            owner[p[i]] = i
            own[i] = gradient[i, p[i]]
    best, first, to, second, then = -np.inf, np.int64(0), np.int64(-1), np.int64(-1), np.int64(-1)
    for i in range(n):
        mine = p[i]
        if mine >= 0 and -own[i] > best:
            best, first, to, second, then = -own[i], i, -1, -1, -1
        for a in range(n):
            j = owner[a]
            if j == i:
                continue
            gain = gradient[i, a] - own[i]
            if j >= 0:
                gain -= own[j]
                if mine >= 0:
                    gain += between(graph, i, mine, j, a)
            if gain > best:
                best, first, to, second, then = gain, i, a, j, -1
            if j >= 0 and mine >= 0:
                gain += gradient[j, mine] + between(graph, i, a, j, mine)
                if gain > best:
                    best, first, to, second, then = gain, i, a, j, mine
    return best, first, to, second, then
