"""The sparse objective, compiled: values and gradients at matchings, and what single edges pay."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER
from medalign_core.solvers.matching.compiled_graph import IN_T, OUT_S, OUT_T

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
    f = graph.lookup_t[a, b]
    if f < 0:
        return 0.0
    return graph.weight * pair_value(graph.table, graph.x, graph.y, graph.offset, e, f)


@njit(**INNER)
@no_type_check
def value_parts(graph, p):
    """Return the first-order and the second-order part of F(p)."""
    first, other, number, unary = graph.first[OUT_S], graph.other[OUT_S], graph.number[OUT_S], graph.unary
    linear, quadratic = 0.0, 0.0
    for i in range(len(p)):
        if p[i] < 0:
            continue
        linear += unary[i, p[i]]
        for k in range(first[i], first[i + 1]):
            b = p[other[k]]
            if b >= 0:
                quadratic += edge_pays(graph, number[k], p[i], b)
    return linear, quadratic


@njit(**INNER)
@no_type_check
def add_nodes(graph, p, start, stop, scale, gradient):
    """Add `scale` times what matching nodes start, ..., stop - 1 contributes to the gradient at their neighbours.

    Over all nodes that is the second-order part of dF/dX at p, O(n k^2) terms. Arrays are taken out of their tuple
    once: inside the loops that would cost more than the sums.
    """
    table, x, y, offset = graph.table, graph.x, graph.y, graph.offset
    scale *= graph.weight
    for side in range(2):
        first_s, other_s, number_s = graph.first[side], graph.other[side], graph.number[side]
        first_t, other_t, number_t = graph.first[2 + side], graph.other[2 + side], graph.number[2 + side]
        for j in range(start, stop):
            b = p[j]
            if b < 0:
                continue
            for k in range(first_s[j], first_s[j + 1]):
                i, e = other_s[k], number_s[k]
                for m in range(first_t[b], first_t[b + 1]):
                    gradient[i, other_t[m]] += scale * pair_value(table, x, y, offset, e, number_t[m])


@njit(**INNER)
@no_type_check
def gradient_at(graph, p, gradient):
    """Write dF/dX at a matching."""
    for i in range(len(p)):
        for a in range(len(p)):
            gradient[i, a] = graph.unary[i, a]
    add_nodes(graph, p, 0, len(p), 1.0, gradient)


@njit(**INNER)
@no_type_check
def between(graph, i, a, j, b):
    """Return what the edges between i and j pay when i is matched to a and j to b."""
    total = 0.0
    if graph.lookup_s[i, j] >= 0:
        total += edge_pays(graph, graph.lookup_s[i, j], a, b)
    if graph.lookup_s[j, i] >= 0:
        total += edge_pays(graph, graph.lookup_s[j, i], b, a)
    return total


@njit(**INNER, fastmath=SUM)
@no_type_check
def uniform_gradient(graph, n, gradient):
    """Write dF/dX at X = 1 / n everywhere, from sums over the edges of each node of s, then of each of t."""
    features = graph.table
    in_factors = graph.table.shape[0] == 0
    if in_factors:
        features = graph.x
    sums = np.empty((2, features.shape[1]))
    weight = graph.weight / n
    for i in range(n):
        for a in range(n):
            gradient[i, a] = graph.unary[i, a]
        for side in range(2):
            first, number, row = graph.first[side], graph.number[side], sums[side]
            row[:] = 0.0
            for k in range(first[i], first[i + 1]):
                for d in range(len(row)):
                    row[d] += features[number[k], d]
        for c in range(OUT_T, IN_T + 1):
            first, number, row = graph.first[c], graph.number[c], sums[c - OUT_T]
            degree = graph.first[c - OUT_T, i + 1] - graph.first[c - OUT_T, i]
            for a in range(n):
                total = 0.0
                for m in range(first[a], first[a + 1]):
                    if in_factors:
                        total += graph.offset * degree
                        for d in range(len(row)):
                            total += row[d] * graph.y[number[m], d]
                    else:
                        total += row[number[m]]
                gradient[i, a] += weight * total
