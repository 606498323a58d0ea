"""The sparse objective, compiled: edge lists by node, values and gradients at matchings, gains of exchanges.

One problem is a tuple `graph` of arrays (see `index_problem`), whose nodes are the valid ones only, numbered anew. A
matching is an int32 array p with -1 at unmatched nodes. Pairs of edges are evaluated on demand, in factor form too.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER

SUM = {"reassoc", "contract", "nsz"}  # sums may be reordered to vectorise; nan and inf keep their meaning


@njit(**INNER)
@no_type_check
def _edges_by_node(edges, place, end, count):
    """Return (first, other, number): edges first[i]:first[i + 1] of node i, by other end and number."""
    first = np.zeros(count + 1, dtype=np.int32)
    for e in range(len(edges)):
        i, j = place[edges[e, end]], place[edges[e, 1 - end]]
        if i >= 0 and j >= 0:
            first[i + 1] += 1
    for i in range(count):
        first[i + 1] += first[i]
    other, number = np.empty(first[count], dtype=np.int32), np.empty(first[count], dtype=np.int32)
    filled = first[:-1].copy()
    for e in range(len(edges)):
        i, j = place[edges[e, end]], place[edges[e, 1 - end]]
        if i >= 0 and j >= 0:
            other[filled[i]], number[filled[i]] = j, e
            filled[i] += 1
    return first, other, number


@njit(**INNER)
@no_type_check
def index_problem(vertex, edges_s, edges_t, nodes_s, nodes_t):
    """Return the problem over the given nodes, in the given orders.

    The tuple: V (n, n); edges of s by tail, by head, and of t by tail, by head, each as in `_edges_by_node`; the number
    of the edge (i, j) of s at [i, j], -1 where there is none, and the same of t.
    """
    count = len(nodes_s)
    place_s, place_t = np.full(len(vertex), -1, dtype=np.int32), np.full(len(vertex), -1, dtype=np.int32)
    for i in range(count):
        place_s[nodes_s[i]], place_t[nodes_t[i]] = i, i
    unary = np.empty((count, count))
    for i in range(count):
        for a in range(count):
            unary[i, a] = vertex[nodes_s[i], nodes_t[a]]
    out_s, in_s = _edges_by_node(edges_s, place_s, 0, count), _edges_by_node(edges_s, place_s, 1, count)
    out_t, in_t = _edges_by_node(edges_t, place_t, 0, count), _edges_by_node(edges_t, place_t, 1, count)
    return unary, out_s, in_s, out_t, in_t, _lookup(out_s, count), _lookup(out_t, count)


@njit(**INNER)
@no_type_check
def _lookup(edges, count):
    first, other, number = edges
    table = np.full((count, count), -1, dtype=np.int32)
    for i in range(count):
        for k in range(first[i], first[i + 1]):
            table[i, other[k]] = number[k]
    return table


@njit(**INNER, fastmath=SUM)
@no_type_check
def pair_value(pairs, e, f):
    """Return w Q[e, f]; pairs = (Q or empty, x, y, offset, w)."""
    if pairs[0].shape[0] > 0:
        return pairs[4] * pairs[0][e, f]
    return pairs[4] * (_dot(pairs[1], pairs[2], e, f) + pairs[3])


@njit(**INNER, fastmath=SUM)
@no_type_check
def _dot(x, y, e, f):
    total = 0.0
    for d in range(x.shape[1]):
        total += np.float64(x[e, d]) * np.float64(y[f, d])
    return total


@njit(**INNER)
@no_type_check
def linear_value(unary, p):
    """Return sum_i V[i, p(i)]."""
    total = 0.0
    for i in range(len(p)):
        if p[i] >= 0:
            total += unary[i, p[i]]
    return total


@njit(**INNER)
@no_type_check
def quadratic_value(graph, pairs, p):
    """Return the second-order part of F(p)."""
    _, (first, other, number), _, _, _, _, lookup = graph
    total = 0.0
    for i in range(len(p)):
        if p[i] < 0:
            continue
        for k in range(first[i], first[i + 1]):
            b = p[other[k]]
            if b >= 0 and lookup[p[i], b] >= 0:
                total += pair_value(pairs, number[k], lookup[p[i], b])
    return total


@njit(**INNER)
@no_type_check
def add_node(graph, pairs, p, j, weight, gradient):
    """Add `weight` times what matching j to p(j) contributes to the gradient at the neighbours of j."""
    _add_nodes(graph[1], graph[3], pairs, (j, j + 1), p, weight, gradient)
    _add_nodes(graph[2], graph[4], pairs, (j, j + 1), p, weight, gradient)


@njit(**INNER)
@no_type_check
def add_matching(graph, pairs, p, weight, gradient):
    """Add `weight` times the second-order part of dF/dX at p: O(n k^2) terms."""
    _add_nodes(graph[1], graph[3], pairs, (0, len(p)), p, weight, gradient)
    _add_nodes(graph[2], graph[4], pairs, (0, len(p)), p, weight, gradient)


@njit(**INNER)
@no_type_check
def _add_nodes(s, t, pairs, nodes, p, weight, gradient):
    """Do so for a range of nodes and the edges of one direction.

    Arrays are taken out of their tuples once: inside the loops that would cost more than the sums.
    """
    first_s, other_s, number_s = s
    first_t, other_t, number_t = t
    dense, x, y, offset, scale = pairs
    scale *= weight
    in_factors = dense.shape[0] == 0
    for j in range(nodes[0], nodes[1]):
        b = p[j]
        if b < 0:
            continue
        for k in range(first_s[j], first_s[j + 1]):
            i, e = other_s[k], number_s[k]
            for m in range(first_t[b], first_t[b + 1]):
                value = _dot(x, y, e, number_t[m]) + offset if in_factors else np.float64(dense[e, number_t[m]])
                gradient[i, other_t[m]] += scale * value


@njit(**INNER)
@no_type_check
def between(graph, pairs, i, a, j, b):
    """Return what the edges between i and j pay when i is matched to a and j to b."""
    _, _, _, _, _, lookup_s, lookup_t = graph
    total = 0.0
    if lookup_s[i, j] >= 0 and lookup_t[a, b] >= 0:
        total += pair_value(pairs, lookup_s[i, j], lookup_t[a, b])
    if lookup_s[j, i] >= 0 and lookup_t[b, a] >= 0:
        total += pair_value(pairs, lookup_s[j, i], lookup_t[b, a])
    return total


@njit(**INNER, fastmath=SUM)
@no_type_check
def add_uniform(graph, pairs, share, gradient):
    """Add the second-order part of dF/dX at X = share everywhere, from sums over the edges of each node."""
    _, out_s, in_s, out_t, in_t, _, _ = graph
    for s, t in ((out_s, out_t), (in_s, in_t)):
        if pairs[0].shape[0] > 0:
            _add_uniform_dense(s, t, pairs[0], share * pairs[4], gradient)
        else:
            _add_uniform_factors(s, t, pairs, share * pairs[4], gradient)


@njit(**INNER, fastmath=SUM)
@no_type_check
def _add_uniform_dense(s, t, dense, weight, gradient):
    row = np.empty(dense.shape[1])
    for i in range(len(gradient)):
        row[:] = 0.0
        for k in range(s[0][i], s[0][i + 1]):
            values = dense[s[2][k]]
            for f in range(len(row)):
                row[f] += values[f]
        for a in range(len(gradient)):
            total = 0.0
            for k in range(t[0][a], t[0][a + 1]):
                total += row[t[2][k]]
            gradient[i, a] += weight * total


@njit(**INNER, fastmath=SUM)
@no_type_check
def _add_uniform_factors(s, t, pairs, weight, gradient):
    _, x, y, offset, _ = pairs
    sum_s, sum_t = _sums_by_node(s, x, len(gradient)), _sums_by_node(t, y, len(gradient))
    for i in range(len(gradient)):
        for a in range(len(gradient)):
            total = offset * (s[0][i + 1] - s[0][i]) * (t[0][a + 1] - t[0][a])
            for d in range(x.shape[1]):
                total += sum_s[i, d] * sum_t[a, d]
            gradient[i, a] += weight * total


@njit(**INNER)
@no_type_check
def _sums_by_node(edges, features, count):
    sums = np.zeros((count, features.shape[1]))
    for i in range(count):
        for k in range(edges[0][i], edges[0][i + 1]):
            for d in range(features.shape[1]):
                sums[i, d] += features[edges[2][k], d]
    return sums


@njit(**INNER, fastmath=SUM)
@no_type_check
def _sizes(table):
    """Return (the sum, the largest) of absolute values; not finite where an entry is not."""
    total, largest = 0.0, 0.0
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            size = abs(np.float64(table[row, column]))
            total += size
            largest = size if size > largest else largest
    return total, largest


@njit(**INNER)
@no_type_check
def magnitude(vertex, pairs):
    """Return (a bound on any sum of the affinities, a size that differences of F are compared with)."""
    dense, x, y, offset, weight = pairs
    total, largest = _sizes(vertex)
    if dense.shape[0] > 0:
        total_pairs, largest_pair = _sizes(dense)
    else:
        (total_x, largest_x), (total_y, largest_y) = _sizes(x), _sizes(y)
        total_pairs = total_x * total_y + abs(offset) * len(x) * len(y)
        largest_pair = largest_x * largest_y + abs(offset)
    return total + weight * total_pairs, largest + weight * largest_pair
