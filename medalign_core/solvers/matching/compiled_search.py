"""The search of the problems of a batch, compiled: climbs from several starts, polish, vetoes and fusion."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers.compiled_assignment import INNER, assign_table
from medalign_core.solvers.matching.compiled_climb import clamp, climb_from, keep_gains
from medalign_core.solvers.matching.compiled_moves import exhaust, fuse, polish, veto
from medalign_core.solvers.matching.compiled_objective import (
    add_matching,
    index_problem,
    linear_value,
    magnitude,
    quadratic_value,
)


@njit(cache=True, nogil=True)
@no_type_check
def weigh_problems(tables, total, largest):
    """Write the magnitudes of every problem; see run_compiled for the tables."""
    vertex, edges, _ = tables
    for g in range(len(vertex)):
        total[g], largest[g] = magnitude(vertex[g], _pairs_of(g, edges))


@njit(cache=True, nogil=True)
@no_type_check
def solve_problems(which, tables, given, rounds, options, floors, answers):
    """Search the problems named, one after the other, from one round of climbs to another.

    Args:
        which: (P,), numbers of problems.
        tables: the batch, see run_compiled.
        given: (G, N), matchings to climb from instead of the assignment, or (G, 0).
        rounds: (first, stop). Round 0 begins with the assignment and climbs from it or from the given matching, round 1
            climbs from the barycentre, every further one from the best matching with some partners vetoed, and fuses.
        options: (steps, tolerance, partial, the most nodes for which all matchings are tried).
        floors: (G,), what F must grow by to be better.
        answers: (matching (G, N), F (G,), whether polished to the end, assignments solved, states of the draws); all
            read where the first round is not 0, and written.
    """
    vertex, edges, (edges_s, edges_t, nodes_s, nodes_t, counts) = tables
    for g in which:
        n = counts[g]
        graph = index_problem(vertex[g], edges_s[g], edges_t[g], nodes_s[g, :n], nodes_t[g, :n])
        _search(graph, _pairs_of(g, edges), given[g, : min(n, given.shape[1])], rounds, options, floors[g], answers, g)


@njit(**INNER)
@no_type_check
def _pairs_of(g, edges):
    dense, x, y, offset, weight = edges
    if len(dense) > 0:
        none = np.zeros((0, 0), dtype=dense.dtype)
        return dense[g], none, none, offset, weight
    return np.zeros((0, 0), dtype=dense.dtype), x[g], y[g], offset, weight


@njit(**INNER)
@no_type_check
def _search(graph, pairs, given, rounds, options, floor, answers, g):
    matching, values, done, used, draws = answers
    steps, tolerance, partial, tried = options
    n = len(graph[0])
    p, price, gradient = matching[g, :n], np.zeros(n), np.empty((n, n))
    found, trial = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
    if rounds[0] == 0:
        trial[:] = -1  # a round 0 starts at the assignment, which is that of the gradient where nothing is matched
    for climb in range(rounds[0] - (rounds[0] == 0), rounds[1]):
        barycentre = climb == 1
        if climb < 0 or climb > 1:
            gradient[:] = graph[0]
            if climb > 1:
                add_matching(graph, pairs, p, 1.0, gradient)
                draws[g] = veto(p, gradient, -1e13 * floor, draws[g])
            if partial:
                clamp(gradient, gradient)
            assign_table(gradient, price, trial, climb > 1)
            keep_gains(gradient, trial, partial)
            used[g] += 1
        if climb < 0:
            p[:] = trial
            values[g] = _value(graph, pairs, p)
            if n <= tried:
                values[g] = exhaust(graph, pairs, p, values[g], floor, partial)
                return
            if len(given) > 0:
                trial[:] = given
                _keep_better(graph, pairs, trial, 0.0, values, p, g)
            continue
        if n < 3 and climb > 1:
            return
        got, taken = climb_from(
            graph, pairs, trial[: 0 if barycentre else n], price, (steps, tolerance, partial), found
        )
        used[g] += taken
        if climb > 1:
            trial[:] = p
            if got > values[g]:
                trial[:] = found
                found[:] = p
            fuse(graph, pairs, trial, found, floor)
            found[:] = trial
            if np.all(found == p):
                continue
        over = polish(graph, pairs, found, gradient, floor, partial)
        if _keep_better(graph, pairs, found, floor, values, p, g):
            done[g] = over


@njit(**INNER)
@no_type_check
def _value(graph, pairs, p):
    return linear_value(graph[0], p) + quadratic_value(graph, pairs, p)


@njit(**INNER)
@no_type_check
def _keep_better(graph, pairs, found, floor, values, p, g):
    now = _value(graph, pairs, found)
    better = now > values[g] + floor
    if better:
        values[g] = now
        p[:] = found
    return better
