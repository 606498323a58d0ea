"""Moves between matchings, compiled: the exchange that gains most, the fusion of two matchings, and random kicks."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER
from medalign_core.solvers.matching.compiled_objective import add_matching, add_node, between, pair_value


@njit(**INNER)
@no_type_check
def polish(graph, pairs, p, gradient, floor, partial):
    """Make the exchange that gains most until none gains more than `floor`; return whether that came true.

    An exchange gives node i the node a of t; the owner j of a takes what i had. In the partial mode j may also be left
    without, and i may drop what it has. `gradient` is overwritten by that at p.
    """
    gradient[:] = graph[0]
    add_matching(graph, pairs, p, 1.0, gradient)
    for _ in range(4 * len(p)):
        found = _best_move(graph, pairs, p, gradient) if partial else _best_swap(graph, pairs, p, gradient)
        gain, i, a, j, b = found
        if gain <= floor:
            return True
        _rematch(graph, pairs, p, gradient, i, -1)
        if j >= 0:
            _rematch(graph, pairs, p, gradient, j, b)
        if a >= 0:
            _rematch(graph, pairs, p, gradient, i, a)
    return False


@njit(**INNER)
@no_type_check
def _rematch(graph, pairs, p, gradient, i, a):
    add_node(graph, pairs, p, i, -1.0, gradient)
    p[i] = a
    add_node(graph, pairs, p, i, 1.0, gradient)


@njit(**INNER)
@no_type_check
def _best_swap(graph, pairs, p, gradient):
    """Return (gain, i, a, j, b) of the best exchange in a permutation: i gets a from j, who gets b."""
    n = len(p)
    edge_s, edge_t = graph[5], graph[6]
    own = np.empty(n)
    for i in range(n):
        own[i] = gradient[i, p[i]]
    best, first, second = -np.inf, 0, 0
    for i in range(n):
        a = p[i]
        for j in range(i + 1, n):
            b = p[j]
            gain = gradient[i, b] + gradient[j, a] - own[i] - own[j]
            if (edge_s[i, j] >= 0 or edge_s[j, i] >= 0) and (edge_t[a, b] >= 0 or edge_t[b, a] >= 0):
                gain += between(graph, pairs, i, a, j, b) + between(graph, pairs, i, b, j, a)
            if gain > best:
                best, first, second = gain, i, j
    return best, first, p[second], second, p[first]


@njit(**INNER)
@no_type_check
def _best_move(graph, pairs, p, gradient):
    """Return (gain, i, a, j, b) of the best exchange in a partial matching; a, j or b are -1 where there is none."""
    n = len(p)
    edge_s, edge_t = graph[5], graph[6]
    owner = np.full(n, -1, dtype=np.int32)
    own = np.zeros(n)
    for i in range(n):
        if p[i] >= 0:
            owner[p[i]] = i
            own[i] = gradient[i, p[i]]
    best, first, to, second, then = -np.inf, 0, -1, -1, -1
    for i in range(n):
        mine = p[i]
        if mine >= 0 and -own[i] > best:
            best, first, to, second, then = -own[i], i, -1, -1, -1
        for a in range(n):
            j = owner[a]
            gain = gradient[i, a] - own[i]
            if j == i:
                continue
            if j < 0:
                if gain > best:
                    best, first, to, second, then = gain, i, a, -1, -1
                continue
            gain -= own[j]
            if mine < 0:
                if gain > best:
                    best, first, to, second, then = gain, i, a, j, -1
                continue
            joined = (edge_s[i, j] >= 0 or edge_s[j, i] >= 0) and (edge_t[a, mine] >= 0 or edge_t[mine, a] >= 0)
            if joined:
                gain += between(graph, pairs, i, mine, j, a)
            if gain > best:
                best, first, to, second, then = gain, i, a, j, -1
            gain += gradient[j, mine]
            if joined:
                gain += between(graph, pairs, i, a, j, mine)
            if gain > best:
                best, first, to, second, then = gain, i, a, j, mine
    return best, first, to, second, then


@njit(**INNER)
@no_type_check
def fuse(graph, pairs, p, other, floor):
    """Take into p, component by component, what of another matching gains; return by how much F grows.

    A component is a cycle or path of the two matchings laid over each other: exchanged as a whole it leaves a matching.
    """
    component, count = _components(p, other)
    nodes = np.argsort(component, kind="mergesort")
    total = 0.0
    gained = True
    while gained:
        gained = False
        stop = len(p) - np.sum(component >= 0)
        for c in range(count):
            start = stop
            while stop < len(p) and component[nodes[stop]] == c:
                stop += 1
            before = _share(graph, pairs, p, nodes[start:stop], component, c)
            _exchange(p, other, nodes[start:stop])
            gain = _share(graph, pairs, p, nodes[start:stop], component, c) - before
            if gain > floor:
                total += gain
                gained = True
            else:
                _exchange(p, other, nodes[start:stop])
    return total


@njit(**INNER)
@no_type_check
def _exchange(p, other, nodes):
    for i in nodes:
        p[i], other[i] = other[i], p[i]


@njit(**INNER)
@no_type_check
def _share(graph, pairs, p, nodes, component, c):
    """Return the part of F(p) that depends on the partners of the nodes of component c."""
    unary, out_s, in_s, lookup = graph[0], graph[1], graph[2], graph[6]
    total = 0.0
    for i in nodes:
        a = p[i]
        if a < 0:
            continue
        total += unary[i, a]
        for k in range(out_s[0][i], out_s[0][i + 1]):
            b = p[out_s[1][k]]
            if b >= 0 and lookup[a, b] >= 0:
                total += pair_value(pairs, out_s[2][k], lookup[a, b])
        for k in range(in_s[0][i], in_s[0][i + 1]):
            b = p[in_s[1][k]]
            if component[in_s[1][k]] != c and b >= 0 and lookup[b, a] >= 0:
                total += pair_value(pairs, in_s[2][k], lookup[b, a])
    return total


@njit(**INNER)
@no_type_check
def _components(p, q):
    """Return the number of the component of each node of s, -1 where p and q agree, and how many there are."""
    n = len(p)
    owner_p, owner_q = np.full(n, -1, dtype=np.int32), np.full(n, -1, dtype=np.int32)
    for i in range(n):
        if p[i] >= 0:
            owner_p[p[i]] = i
        if q[i] >= 0:
            owner_q[q[i]] = i
    component = np.full(n, -1, dtype=np.int32)
    count = 0
    for start in range(n):
        if component[start] >= 0 or p[start] == q[start]:
            continue
        i = start
        while i >= 0 and component[i] < 0:  # forward: who has in p what i has in q
            component[i] = count
            i = owner_p[q[i]] if q[i] >= 0 else -1
        i = owner_q[p[start]] if p[start] >= 0 else -1
        while i >= 0 and component[i] < 0:
            component[i] = count
            i = owner_q[p[i]] if p[i] >= 0 else -1
        count += 1
    return component, count


@njit(**INNER)
@no_type_check
def veto(p, gradient, low, state):
    """Set the gradient at the partners of some nodes to `low`, a twentieth to a third of them; return the next state.

    The best assignment is then one of plausible second choices. The draws are a linear congruence, so that both paths
    of the search make the same, and name nodes of s alone, so that a relabelled t is treated alike.
    """
    n = len(p)
    nodes = np.arange(n)
    state = _draw(state)
    count = min(n, max(2, n // 20) + (state >> 8) % max(1, n // 3 - n // 20))
    for k in range(count):
        state = _draw(state)
        m = k + (state >> 8) % (n - k)
        nodes[k], nodes[m] = nodes[m], nodes[k]
        if p[nodes[k]] >= 0:
            gradient[nodes[k], p[nodes[k]]] = low
    return state


@njit(**INNER)
@no_type_check
def _draw(state):
    return (state * 1103515245 + 12345) % 2147483648


@njit(**INNER)
@no_type_check
def exhaust(graph, pairs, p, value, floor, partial):
    """Try every matching, depth first and node by node; write the best to p and return its F."""
    n = len(p)
    trial, taken, total = np.full(n, -2, dtype=np.int32), np.zeros(n, dtype=np.bool_), np.zeros(n + 1)
    i = 0
    while i >= 0:
        if i == n:
            if total[n] > value + floor:
                value = total[n]
                p[:] = trial
            i -= 1
            continue
        if trial[i] >= 0:
            taken[trial[i]] = False
        a = trial[i] + 1 if trial[i] > -2 else (-1 if partial else 0)
        while 0 <= a < n and taken[a]:
            a += 1
        if a == n:
            trial[i] = -2
            i -= 1
            continue
        trial[i] = a
        total[i + 1] = total[i]
        if a >= 0:
            taken[a] = True
            total[i + 1] += graph[0][i, a]
            for j in range(i):
                if trial[j] >= 0:
                    total[i + 1] += between(graph, pairs, i, a, j, trial[j])
        i += 1
    return value
