"""Frank-Wolfe over matchings, compiled: one linear assignment and one sparse gradient a step."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER, assign_table
from medalign_core.solvers.matching.compiled_objective import (
    add_matching,
    add_node,
    add_uniform,
    linear_value,
    quadratic_value,
)


@njit(**INNER)
@no_type_check
def climb_from(graph, pairs, start, price, options, best):
    """Climb from a matching, or from the barycentre where `start` is empty.

    F is quadratic, so its gradient is affine: at a convex combination of matchings it is that of their gradients. Each
    step needs the sparse gradient of one matching, one linear assignment, and an exact line search from three products.

    Args:
        graph: see compiled_objective.
        pairs: likewise.
        start: (n,) or (0,).
        price: (n,), prices the first assignment starts from; overwritten by those of the last.
        options: (most steps, the slope relative to F at which to stop, whether nodes may stay unmatched).
        best: (n,), the best matching met, written.

    Returns:
        (F at `best`, linear assignments solved).
    """
    unary = graph[0]
    gradient, corner_gradient = unary.copy(), unary.copy()
    last = np.full(len(unary), -1, dtype=np.int32)
    if len(start) > 0:
        last[:] = start
        add_matching(graph, pairs, start, 1.0, gradient)
        corner_gradient[:] = gradient
        linear, quadratic = linear_value(unary, start), quadratic_value(graph, pairs, start)
    else:
        share = 1.0 / len(unary)
        add_uniform(graph, pairs, share, gradient)
        linear = share * unary.sum()
        quadratic = 0.5 * (share * gradient.sum() - linear)
    return _climb(graph, pairs, (gradient, corner_gradient, last), (linear, quadratic), price, options, best)


@njit(**INNER)
@no_type_check
def _climb(graph, pairs, point, parts, price, options, best):
    """Climb from the point with the given gradient, and gradient of a last corner, and (linear, quadratic) F."""
    steps, tolerance, partial = options
    gradient, corner_gradient, last = point
    linear, quadratic = parts
    unary = graph[0]
    n = len(unary)
    corner = np.empty(n, dtype=np.int32)
    clamped = np.empty((n, n)) if partial else gradient
    value, used = -np.inf, 0
    for _ in range(steps):
        if partial:
            clamp(gradient, clamped)
        assign_table(clamped, price, corner, True)
        used += 1
        toward = keep_gains(gradient, corner, partial)
        corner_linear, corner_quadratic = linear_value(unary, corner), quadratic_value(graph, pairs, corner)
        if corner_linear + corner_quadratic > value:
            value = corner_linear + corner_quadratic
            best[:] = corner
        cross = 0.5 * (toward - corner_linear)
        # towards the corner C, F(X + t (C - X)) is a constant + slope * t + curve * t^2
        curve = quadratic - 2 * cross + corner_quadratic
        slope = corner_linear - linear + 2 * (cross - quadratic)
        if slope <= tolerance * (abs(linear) + abs(quadratic)):
            break
        step = min(1.0, -slope / (2 * curve)) if curve < 0 else 1.0
        _follow(graph, pairs, last, corner, corner_gradient)
        for i in range(n):
            for a in range(n):
                gradient[i, a] += step * (corner_gradient[i, a] - gradient[i, a])
        quadratic = (1 - step) ** 2 * quadratic + 2 * step * (1 - step) * cross + step**2 * corner_quadratic
        linear += step * (corner_linear - linear)
    return value, used


@njit(**INNER)
@no_type_check
def clamp(gradient, clamped):
    """A partial assignment is a full one of the positive part: what it takes at 0 it leaves."""
    for i in range(len(gradient)):
        for a in range(len(gradient)):
            clamped[i, a] = gradient[i, a] if gradient[i, a] > 0.0 else 0.0


@njit(**INNER)
@no_type_check
def keep_gains(gradient, corner, partial):
    """Leave unmatched, in the partial mode, what does not gain; return the sum of what is kept."""
    toward = 0.0
    for i in range(len(corner)):
        if partial and gradient[i, corner[i]] <= 0.0:
            corner[i] = -1
        else:
            toward += gradient[i, corner[i]]
    return toward


@njit(**INNER)
@no_type_check
def _follow(graph, pairs, last, corner, corner_gradient):
    """Turn the gradient at `last` into that at `corner`: consecutive corners differ in few nodes."""
    changed = 0
    for i in range(len(corner)):
        changed += last[i] != corner[i]
    if 2 * changed > len(corner):
        corner_gradient[:] = graph[0]
        add_matching(graph, pairs, corner, 1.0, corner_gradient)
    else:
        for i in range(len(corner)):
            if last[i] != corner[i]:
                add_node(graph, pairs, last, i, -1.0, corner_gradient)
                add_node(graph, pairs, corner, i, 1.0, corner_gradient)
    last[:] = corner
