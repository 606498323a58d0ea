"""The search of the problems of a batch, compiled: climbs from several starts, polish, vetoes and fusion."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from medalign_core.solvers import compiled_assignment
from medalign_core.solvers.compiled_assignment import INNER, ONCE, start_prices
from medalign_core.solvers.compiled_sources import checksum
from medalign_core.solvers.matching import tolerances
from medalign_core.solvers.matching.compiled_climb import best_corner, climb_from
from medalign_core.solvers.matching.compiled_fusion import exhaust, fuse, veto
from medalign_core.solvers.matching.compiled_graph import (
    BEST,
    FOUND,
    GRADIENT,
    LAST,
    NODES,
    NODES_S,
    NODES_T,
    PRICE,
    SUMS,
    TRIAL,
    Graph,
    Scratch,
    index_problem,
    largest,
    order_nodes,
)
from medalign_core.solvers.matching.compiled_objective import gradient_at, value_parts
from medalign_core.solvers.matching.compiled_polish import polish
from medalign_core.solvers.matching.tolerances import BARYCENTRE, FLOOR, MARGIN, PATIENCE, TOLERANCE

DONE, USED, DRAWS, FAILED = range(4)  # the columns of `tally`


@no_type_check
def _solve_problems_of(sources):
    @njit(cache=True, nogil=True, no_cfunc_wrapper=True)
    @no_type_check
    def solve_problems(
        which,
        vertex,
        table,
        x,
        y,
        edges_s,
        edges_t,
        valid,
        order,
        matching,
        value,
        tally,
        offset,
        weight,
        given,
        first_round,
        stop_round,
        steps,
        partial,
        tried,
    ):
        """Search the problems named, one after the other, from one round of climbs to another: see run.Path.

        Args:
            which: (P,), numbers of problems.
            vertex: (G, N, N) float64, as all floats.
            table: (G, S, T), or (G, 0, 0) where the factors stand for it.
            x: (G, S, D), or (G, 0, 0).
            y: (G, T, D), or (G, 0, 0).
            edges_s: (G, S, 2) int64, as all integers.
            edges_t: (G, T, 2).
            valid: (G, N).
            order: (G, N).
            matching: (G, N), read if `given` or the first round is not 0, and written.
            value: (G, 2), F and what it must grow by to be better; likewise.
            tally: (G, 4), whether polished to the end, assignments solved, state of the draws, failures; likewise.
            offset: of the factor form.
            weight: w.
            given: whether `matching` holds matchings to climb from instead of the assignment.
            first_round: see run.Path.
            stop_round: likewise.
            steps: of a climb at most.
            partial: whether nodes may stay unmatched.
            tried: the most nodes for which all matchings are tried.
        """
        if sources < 0:
            return
        size, edges = vertex.shape[1], max(edges_s.shape[1], edges_t.shape[1])
        lines = np.empty((SUMS + 2, max(size + 1, edges, x.shape[2])))
        scratch = Scratch(np.empty((3, size, size)), lines, np.empty((NODES_T + 1, size + 1), np.int64))
        unary, marks, lists = np.empty((size, size)), scratch.marks, np.empty((12, max(size + 1, edges)), np.int32)
        lookup = np.empty((2, size, size), np.int32)
        for g in which:
            graph = Graph(unary, lists, lookup, table[g], x[g], y[g], offset, weight)
            if first_round == 0:
                _weigh(graph, vertex[g], value[g], tally[g], lines[0])
            n = order_nodes(valid[g], order[g], marks[NODES_S], marks[NODES_T])
            if n == 0 or tally[g, FAILED]:
                continue
            nodes_s, nodes_t = marks[NODES_S, :n], marks[NODES_T, :n]
            index_problem(vertex[g], edges_s[g], edges_t[g], nodes_s, nodes_t, graph, marks[LAST])
            best = marks[BEST, :n]
            _renumber(matching[g], nodes_s, nodes_t, marks[LAST], best)
            _search(graph, best, given, (first_round, stop_round), (steps, partial, tried), value[g], tally[g], scratch)
            for i in range(n):
                matching[g, nodes_s[i]] = nodes_t[best[i]] if best[i] >= 0 else -1

    return solve_problems


solve_problems = _solve_problems_of(checksum(__file__, compiled_assignment.__file__, tolerances.__file__))


@njit(**ONCE)
@no_type_check
def _weigh(graph, vertex, value, tally, line):
    """Write the floor of a problem, and whether its affinities are too large to add up, or not finite."""
    size, pairs = len(vertex), float(graph.table.size)
    vertex_size, pair_size = largest(vertex, line), largest(graph.table, line)
    if graph.table.shape[0] == 0:
        pairs = float(len(graph.x)) * len(graph.y)
        pair_size = largest(graph.x, line) * largest(graph.y, line) * graph.x.shape[1] + abs(graph.offset)
    total = float(size) ** 2 * vertex_size + graph.weight * pairs * pair_size
    tally[FAILED] = not np.isfinite(total * MARGIN * size)
    value[1] = FLOOR * (vertex_size + graph.weight * pair_size)


@njit(**ONCE)
@no_type_check
def _renumber(matching, nodes_s, nodes_t, place, p):
    """Write a matching in the numbers of the search; a partner that is a hole is none."""
    for i in range(len(matching)):
        place[i] = -1
    for a in range(len(nodes_t)):
        place[nodes_t[a]] = a
    for i in range(len(nodes_s)):
        a = matching[nodes_s[i]]
        p[i] = place[a] if a >= 0 else -1


@njit(**ONCE)
@no_type_check
def _search(graph, best, given, rounds, options, value, tally, scratch):
    """Search one problem; `best` is a matching to begin with, read as `matching` is above, and the answer."""
    steps, partial, tried = options
    n, floor = len(best), value[1]
    found, trial, price = scratch.marks[FOUND, :n], scratch.marks[TRIAL, :n], scratch.lines[PRICE, :n]
    for i in range(n):
        trial[i], price[i] = best[i], 0.0
    if rounds[0] == 0:
        tally[USED] += 1
        start_prices(graph.unary, price)
        best_corner(graph.unary, partial, best, scratch)
        linear, quadratic = value_parts(graph, best)
        value[0] = linear + quadratic
        if n <= tried:
            value[0] = exhaust(graph, best, value[0], floor, partial, scratch)
            return
        if given:
            _keep_better(graph, trial, 0.0, best, value)
        else:
            _copy(best, trial)
    for climb in range(rounds[0], rounds[1]):
        kicked = climb > 0 and climb != BARYCENTRE
        if kicked:
            if n < 3:
                return
            gradient_at(graph, best, scratch.squares[GRADIENT])
            tally[DRAWS] = veto(best, scratch.squares[GRADIENT], -1e13 * floor, tally[DRAWS], scratch.marks[NODES])
            best_corner(scratch.squares[GRADIENT], partial, trial, scratch)
            tally[USED] += 1
        got, taken = climb_from(
            graph, trial, climb == BARYCENTRE, (steps, TOLERANCE, PATIENCE, partial), found, scratch
        )
        tally[USED] += taken
        if kicked:
            _copy(best, trial)
            if got > value[0]:
                _copy(found, trial)
                _copy(best, found)
            fuse(graph, trial, found, floor, scratch)
            _copy(trial, found)
            if _agree(found, best):
                continue
        over = polish(graph, found, floor, partial, scratch)
        if _keep_better(graph, found, floor, best, value):
            tally[DONE] = over


@njit(**INNER)
@no_type_check
def _copy(p, q):
    for i in range(len(p)):
        q[i] = p[i]


@njit(**INNER)
@no_type_check
def _agree(p, q):
    for i in range(len(p)):
        if p[i] != q[i]:
            return False
    return True


@njit(**INNER)
@no_type_check
def _keep_better(graph, found, floor, best, value):
    linear, quadratic = value_parts(graph, found)
    if linear + quadratic <= value[0] + floor:
        return False
    value[0] = linear + quadratic
    _copy(found, best)
    return True
