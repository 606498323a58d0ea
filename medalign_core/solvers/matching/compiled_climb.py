"""Frank-Wolfe over matchings, compiled: one linear assignment and one sparse gradient a step."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER, ONCE, assign_table
from medalign_core.solvers.matching.compiled_graph import CLAMPED, CORNER, CORNER_GRADIENT, GRADIENT, LAST, PRICE, SUMS
from medalign_core.solvers.matching.compiled_objective import add_nodes, gradient_at, uniform_gradient, value_parts


@njit(**INNER)
@no_type_check
def best_corner(gradient, partial, p, scratch):
    """Write the matching that a linear function is largest at; return the sum of what it pays.

    A partial assignment is a full one of the positive part: what it takes at 0 it leaves.
    """
    n = len(p)
    table = gradient
    if partial:
        table = scratch.squares[CLAMPED]
        for i in range(n):
            for a in range(n):
                table[i, a] = gradient[i, a] if gradient[i, a] > 0.0 else 0.0
    assign_table(table, scratch.lines[PRICE, :n], p, scratch.lines, scratch.marks)
    total = 0.0
    for i in range(n):
        if partial and gradient[i, p[i]] <= 0.0:
            p[i] = -1
        else:
            total += gradient[i, p[i]]
    return total


@njit(**INNER)
@no_type_check
def climb_from(graph, start, barycentre, options, best, scratch):
    """Climb from a matching or from the barycentre.

    F is quadratic, so its gradient is affine: at a convex combination of matchings it is that of their gradients. Each
    step needs the sparse gradient of one matching, one linear assignment, and an exact line search from three products.

    Args:
        graph: see compiled_graph.
        start: (n,), a matching.
        barycentre: start from X = 1 / n everywhere instead.
        options: (most steps, the slope relative to F at which to stop, how many steps without a better matching,
            whether nodes may stay unmatched).
        best: (n,), the best matching met, written.
        scratch: see compiled_graph; the prices of its last assignment are where the first one starts from.

    Returns:
        (F at `best`, linear assignments solved).
    """
    steps, tolerance, patience, partial = options
    n = len(start)
    gradient, corner_gradient, unary = scratch.squares[GRADIENT], scratch.squares[CORNER_GRADIENT], graph.unary
    corner, last = scratch.marks[CORNER, :n], scratch.marks[LAST, :n]
    for i in range(n):
        last[i] = -1 if barycentre else start[i]
    gradient_at(graph, last, corner_gradient)
    if barycentre:
        uniform_gradient(graph, n, gradient, scratch.lines[SUMS:])
        linear, total = 0.0, 0.0
        for i in range(n):
            for a in range(n):
                linear += unary[i, a] / n
                total += gradient[i, a] / n
        quadratic = 0.5 * (total - linear)
    else:
        for i in range(n):
            for a in range(n):
                gradient[i, a] = corner_gradient[i, a]
        linear, quadratic = value_parts(graph, start)
    value, used, stale = -np.inf, 0, 0
    while used < steps:
        toward = best_corner(gradient, partial, corner, scratch)
        used += 1
        stale += 1
        corner_linear, corner_quadratic = value_parts(graph, corner)
        if corner_linear + corner_quadratic > value:
            value = corner_linear + corner_quadratic
            stale = 0
            for i in range(n):
                best[i] = corner[i]
        cross = 0.5 * (toward - corner_linear)
        # towards the corner C, F(X + t (C - X)) is a constant + slope * t + curve * t^2
        curve = quadratic - 2 * cross + corner_quadratic
        slope = corner_linear - linear + 2 * (cross - quadratic)
        if stale >= patience or slope <= tolerance * (abs(linear) + abs(quadratic)):
            break
        step = min(1.0, -slope / (2 * curve)) if curve < 0 else 1.0
        _follow(graph, last, corner, corner_gradient)
        for i in range(n):
            for a in range(n):
                gradient[i, a] += step * (corner_gradient[i, a] - gradient[i, a])
        quadratic = (1 - step) ** 2 * quadratic + 2 * step * (1 - step) * cross + step**2 * corner_quadratic
        linear += step * (corner_linear - linear)
    return value, used


@njit(**ONCE)
@no_type_check
def _follow(graph, last, corner, corner_gradient):
    """Turn the gradient at `last` into that at `corner`: consecutive corners differ in few nodes."""
    changed = 0
    for i in range(len(corner)):
        changed += last[i] != corner[i]
    if 2 * changed > len(corner):
        gradient_at(graph, corner, corner_gradient)
    for i in range(len(corner)):
        if last[i] != corner[i]:
            if 2 * changed <= len(corner):
                add_nodes(graph, last, i, i + 1, -1.0, corner_gradient)
                add_nodes(graph, corner, i, i + 1, 1.0, corner_gradient)
            last[i] = corner[i]
