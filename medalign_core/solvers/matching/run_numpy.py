"""The search in NumPy and SciPy, problem by problem."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.matching.objective import Objective
from medalign_core.solvers.matching.run import Nodes, Options, Outcome
from medalign_core.solvers.matching.search import Search
from medalign_core.solvers.matching_problem import MatchingProblem


class NumpyPath:
    """A `run.Path`: needs no compiler."""

    def __init__(self, problem: MatchingProblem, nodes: Nodes, options: Options, start: np.ndarray | None) -> None:
        self._problem, self._nodes, self._options, self._start = problem, nodes, options, start
        self._objectives: dict[int, Objective] = {}

    def magnitudes(self) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
        """Return a bound on any sum of each problem's affinities, and the size of its largest."""
        problem, weight = self._problem, self._options.edge_weight
        total, largest = _sizes(problem.vertex_affinity)
        if problem.edge_affinity is not None:
            total_pairs, largest_pair = _sizes(problem.edge_affinity)
        else:
            assert problem.edge_features_s is not None
            assert problem.edge_features_t is not None
            (total_s, largest_s), (total_t, largest_t) = map(_sizes, (problem.edge_features_s, problem.edge_features_t))
            pairs = problem.edges_s.shape[1] * problem.edges_t.shape[1]
            with np.errstate(over="ignore", invalid="ignore"):
                total_pairs = total_s * total_t + abs(problem.edge_offset) * pairs
                largest_pair = largest_s * largest_t + abs(problem.edge_offset)
        with np.errstate(over="ignore", invalid="ignore"):
            return total + weight * total_pairs, largest + weight * largest_pair

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], floors: Float[np.ndarray, " G"], outcome: Outcome
    ) -> None:
        """Search these problems from one round to another, into `outcome`."""
        for g in which.tolist():
            n = int(self._nodes.counts[g])
            given = np.zeros(0, dtype=np.int64) if self._start is None else self._start[g, :n].astype(np.int64)
            search = Search(self._objective(g, n), self._options.climbing(), float(floors[g]))
            search.p, search.value = outcome.matching[g, :n].astype(np.int64), float(outcome.value[g])
            search.done, search.used, search.draws = bool(outcome.done[g]), int(outcome.used[g]), int(outcome.draws[g])
            search.run(given, rounds)
            outcome.matching[g, :n], outcome.value[g] = search.p, search.value
            outcome.done[g], outcome.used[g], outcome.draws[g] = search.done, search.used, search.draws

    def _objective(self, g: int, n: int) -> Objective:
        """Return the tables of problem g; the anytime mode, which calls again and again, keeps them."""
        if g not in self._objectives:
            nodes = self._nodes.s[g, :n], self._nodes.t[g, :n]
            made = Objective.of(self._problem, g, nodes, edge_weight=self._options.edge_weight)
            if self._options.time_budget is None:
                return made
            self._objectives[g] = made
        return self._objectives[g]


def _sizes(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the sum, the largest) of absolute values of each problem's table."""
    size = np.abs(table.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        return size.sum(axis=(1, 2)), size.max(axis=(1, 2), initial=0.0)
