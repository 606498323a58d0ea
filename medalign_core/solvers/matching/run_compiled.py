"""The compiled search: the arrays as the kernels want them, one call for a batch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from medalign_core.solvers.matching.compiled_search import solve_problems
from medalign_core.solvers.matching.run import Options, Outcome
from medalign_core.solvers.matching_problem import MatchingProblem


class CompiledPath:
    """A `run.Path`; its kernels are compiled once, for float64: what comes in float32 is converted."""

    def __init__(self, problem: MatchingProblem, options: Options) -> None:
        graphs, size = problem.vertex_affinity.shape[:2]
        none = np.empty((graphs, 0, 0))
        tables = (problem.vertex_affinity, problem.edge_affinity, problem.edge_features_s, problem.edge_features_t)
        valid = np.ones((graphs, size), np.bool_) if problem.valid is None else _plain(problem.valid, np.bool_)
        if problem.order is None:
            order = np.empty((graphs, size), np.int64)
            order[:] = np.arange(size)
        else:
            order = _plain(problem.order, np.int64)
        self._problem = (
            *(none if table is None else _plain(table, np.float64) for table in tables),
            _plain(problem.edges_s, np.int64),
            _plain(problem.edges_t, np.int64),
            valid,
            order,
        )
        self._weights = float(problem.edge_offset), options.edge_weight
        self._options = options.steps, options.partial, options.tried

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], outcome: Outcome, *, given: bool = False
    ) -> None:
        """Search these problems from one round to another, into `outcome`."""
        answers = outcome.matching, outcome.value, outcome.tally
        solve_problems(which, *self._problem, *answers, *self._weights, given, *rounds, *self._options)


def _plain(table: np.ndarray, kind: type) -> np.ndarray:
    """Return the table as the kernels were compiled for: C order, and writeable, or they would be compiled again."""
    plain: np.ndarray = np.ascontiguousarray(table, dtype=kind)
    return plain if plain.flags.writeable else plain.copy()
