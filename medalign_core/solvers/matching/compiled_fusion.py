"""From one matching to the next, compiled: vetoes that kick it, the fusion of two, and the trial of all."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER, ONCE
from medalign_core.solvers.matching.compiled_graph import (
    BEGIN,
    COMPONENT,
    FIRST,
    LAST,
    NODES,
    NUMBER,
    OTHER,
    OWNER_P,
    OWNER_Q,
    TOTAL,
)
from medalign_core.solvers.matching.compiled_objective import between, edge_pays


@njit(**INNER)
@no_type_check
def fuse(graph, p, other, floor, scratch):
    """Take into p, component by component, what of another matching gains.

    A component is a cycle or path of the two matchings laid over each other: exchanged as a whole it leaves a matching.
    """
    nodes, begin, component = scratch.marks[NODES], scratch.marks[BEGIN], scratch.marks[COMPONENT]
    count = _list_components(p, other, scratch.marks)
    gained = True
    while gained:
        gained = False
        for c in range(count):
            part = nodes[begin[c] : begin[c + 1]]
            before = _share(graph, p, part, component, c)
            _exchange(p, other, part)
            if _share(graph, p, part, component, c) - before > floor:
                gained = True
            else:
                _exchange(p, other, part)


@njit(**INNER)
@no_type_check
def _exchange(p, other, nodes):
    for k in range(len(nodes)):
        p[nodes[k]], other[nodes[k]] = other[nodes[k]], p[nodes[k]]


@njit(**INNER)
@no_type_check
def _share(graph, p, nodes, component, c):
    """Return the part of F(p) that depends on the partners of the nodes of component c."""
    total = 0.0
    for at in range(len(nodes)):
        i = nodes[at]
        a = p[i]
        if a < 0:
            continue
        total += graph.unary[i, a]
        for side in range(2):
            for k in range(graph.lists[FIRST + side, i], graph.lists[FIRST + side, i + 1]):
                j, e = graph.lists[OTHER + side, k], graph.lists[NUMBER + side, k]
                if p[j] < 0:
                    continue
                if side == 0:
                    total += edge_pays(graph, e, a, p[j])
                elif component[j] != c:
                    total += edge_pays(graph, e, p[j], a)
    return total


@njit(**ONCE)
@no_type_check
def _list_components(p, q, marks):
    """List the nodes of s component by component, and number them, -1 where p and q agree; return how many there are.

    Component c is nodes[begin[c]], ..., nodes[begin[c + 1] - 1].
    """
    n = len(p)
    nodes, begin, component, owner_p, owner_q = (
        marks[NODES],
        marks[BEGIN],
        marks[COMPONENT],
        marks[OWNER_P],
        marks[OWNER_Q],
    )
    for i in range(n):
        owner_p[i], owner_q[i], component[i] = -1, -1, -1
    for i in range(n):
        if p[i] >= 0:
            owner_p[p[i]] = i
        if q[i] >= 0:
            owner_q[q[i]] = i
    count, listed = 0, 0
    for start in range(n):
        if component[start] >= 0 or p[start] == q[start]:
            continue
        begin[count] = listed
        for back in range(2):  # forward: who has in p what i has in q; then back
            i = start
            if back:
                i = owner_q[p[start]] if p[start] >= 0 else -1
            while i >= 0 and component[i] < 0:
                component[i] = count
                nodes[listed] = i
                listed += 1
                if back:
                    i = owner_q[p[i]] if p[i] >= 0 else -1
                else:
                    i = owner_p[q[i]] if q[i] >= 0 else -1
        count += 1
    begin[count] = listed
    return count


@njit(**ONCE)
@no_type_check
def veto(p, gradient, low, state, nodes):
    """Set the gradient at the partners of some nodes to `low`, a twentieth to a third of them; return the next state.

    The best assignment is then one of plausible second choices. The draws are a linear congruence, so that both paths
    of the search make the same, and name nodes of s alone, so that a relabelled t is treated alike.
    """
    n = len(p)
    for i in range(n):
        nodes[i] = i
    state = (state * 1103515245 + 12345) % 2147483648
    count = min(n, max(2, n // 20) + (state >> 8) % max(1, n // 3 - n // 20))
    for k in range(count):
        state = (state * 1103515245 + 12345) % 2147483648
        m = k + (state >> 8) % (n - k)
        nodes[k], nodes[m] = nodes[m], nodes[k]
        if p[nodes[k]] >= 0:
            gradient[nodes[k], p[nodes[k]]] = low
    return state


@njit(**INNER)
@no_type_check
def exhaust(graph, p, value, floor, partial, scratch):
    """Try every matching, depth first and node by node; write the best to p and return its F."""
    n = len(p)
    trial, taken, total = scratch.marks[LAST], scratch.marks[NODES], scratch.lines[TOTAL]
    for i in range(n):
        trial[i], taken[i] = -2, 0
    total[0] = 0.0
    i = np.int64(0)  # a literal would be compiled anew
    while i >= 0:
        if i == n:
            if total[n] > value + floor:
                value = total[n]
                for j in range(n):
                    p[j] = trial[j]
            i -= 1
            continue
        if trial[i] >= 0:
            taken[trial[i]] = 0
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
            taken[a] = 1
            total[i + 1] += graph.unary[i, a]
            for j in range(i):
                if trial[j] >= 0:
                    total[i + 1] += between(graph, i, a, j, trial[j])
        i += 1
    return value
