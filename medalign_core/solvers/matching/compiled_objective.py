"""The sparse objective, compiled: values and gradients at matchings, and what single edges pay."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER
from medalign_core.solvers.matching.compiled_graph import FIRST, NUMBER, OTHER, OUT_S

SUM = {"reassoc", "contract", "nsz"}  # sums may be reordered to vectorise; nan and inf keep their meaning


@njit(**INNER, fastmath=SUM)
@no_type_check
def pair_value(table, x, y, offset, e, f):
    """Return Q[e, f]."""
    if table.shape[0] > 0:
        return table[e, f]
    total = offset
    for d in range(x.shape[1]):
        total += x[e, d] * y[f, d]
    return total


@njit(**INNER)
@no_type_check
def edge_pays(graph, e, a, b):
    """Return w Q[e, f] for the edge f = (a, b) of t, 0 where there is none."""
    f = graph.lookup[1, a, b]
    if f < 0:
        return 0.0
    return graph.weight * pair_value(graph.table, graph.x, graph.y, graph.offset, e, f)


@njit(**INNER)
@no_type_check
def value_parts(graph, p):
    """Return the first-order and the second-order part of F(p)."""
    unary, lists = graph.unary, graph.lists
    linear, quadratic = 0.0, 0.0
    for i in range(len(p)):
        if p[i] < 0:
            continue
        linear += unary[i, p[i]]
        for k in range(lists[FIRST + OUT_S, i], lists[FIRST + OUT_S, i + 1]):
            b = p[lists[OTHER + OUT_S, k]]
            if b >= 0:
                quadratic += edge_pays(graph, lists[NUMBER + OUT_S, k], p[i], b)
    return linear, quadratic


@njit(**INNER)
@no_type_check
def add_nodes(graph, p, start, stop, scale, gradient):
    """Add `scale` times what matching nodes start, ..., stop - 1 contributes to the gradient at their neighbours.

    Over all nodes that is the second-order part of dF/dX at p, O(n k^2) terms. Arrays are taken out of their tuple
    once: inside the loops that would cost more than the sums.
    """
    lists, table, x, y, offset = graph.lists, graph.table, graph.x, graph.y, graph.offset
    scale *= graph.weight
    for side in range(2):
        t = 2 + side
        for j in range(start, stop):
            b = p[j]
            if b < 0:
                continue
            for k in range(lists[FIRST + side, j], lists[FIRST + side, j + 1]):
                i, e = lists[OTHER + side, k], lists[NUMBER + side, k]
                for m in range(lists[FIRST + t, b], lists[FIRST + t, b + 1]):
                    paid = pair_value(table, x, y, offset, e, lists[NUMBER + t, m])
                    gradient[i, lists[OTHER + t, m]] += scale * paid


@njit(**INNER)
@no_type_check
def gradient_at(graph, p, gradient):
    """Write dF/dX at a matching."""
    for i in range(len(p)):
        for a in range(len(p)):
            gradient[i, a] = graph.unary[i, a]
    add_nodes(graph, p, np.int64(0), len(p), 1.0, gradient)  # a literal would be compiled anew


@njit(**INNER)
@no_type_check
def between(graph, i, a, j, b):
    """Return what the edges between i and j pay when i is matched to a and j to b."""
    total = 0.0
    if graph.lookup[0, i, j] >= 0:
        total += edge_pays(graph, graph.lookup[0, i, j], a, b)
    if graph.lookup[0, j, i] >= 0:
        total += edge_pays(graph, graph.lookup[0, j, i], b, a)
    return total


@njit(**INNER, fastmath=SUM)
@no_type_check
def uniform_gradient(graph, n, gradient, sums):
    """Write dF/dX at X = 1 / n everywhere, from sums over the edges of each node of s, then of each of t.

    `sums` is scratch, (2, at least T), or (2, at least D) in factor form.
    """
    lists, features, y = graph.lists, graph.table, graph.y
    in_factors = graph.table.shape[0] == 0
    if in_factors:
        features = graph.x
    weight, width = graph.weight / n, features.shape[1]
    for i in range(n):
        for a in range(n):
            gradient[i, a] = graph.unary[i, a]
        for side in range(2):
            t = 2 + side
            start, stop = lists[FIRST + side, i], lists[FIRST + side, i + 1]
            row = sums[side]
            for d in range(width):
                row[d] = 0.0
            for k in range(start, stop):
                paid = features[lists[NUMBER + side, k]]
                for d in range(width):
                    row[d] += paid[d]
            for a in range(n):
                total = 0.0
                for m in range(lists[FIRST + t, a], lists[FIRST + t, a + 1]):
                    f = lists[NUMBER + t, m]
                    if in_factors:
                        total += graph.offset * (stop - start)
                        for d in range(width):
                            total += row[d] * y[f, d]
                    else:
                        total += row[f]
                gradient[i, a] += weight * total
