"""The compiled search: the arrays as the kernels want them, one call for a batch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.matching.compiled_search import solve_problems, weigh_problems
from medalign_core.solvers.matching.run import Nodes, Options, Outcome
from medalign_core.solvers.matching_problem import MatchingProblem


class CompiledPath:
    """A `run.Path`; its kernels are compiled at the first call, once for float32 and once for float64 edges."""

    def __init__(self, problem: MatchingProblem, nodes: Nodes, options: Options, start: np.ndarray | None) -> None:
        self._tables = _tables(problem, nodes, options.edge_weight)
        self._options = options.climbing()
        graphs, size = problem.vertex_affinity.shape[:2]
        self._start = np.zeros((graphs, 0), dtype=np.int32) if start is None else start

    def magnitudes(self) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
        """Return a bound on any sum of each problem's affinities, and the size of its largest."""
        total, largest = np.empty(len(self._start)), np.empty(len(self._start))
        weigh_problems(self._tables, total, largest)
        return total, largest

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], floors: Float[np.ndarray, " G"], outcome: Outcome
    ) -> None:
        """Search these problems from one round to another, into `outcome`."""
        answers = outcome.matching, outcome.value, outcome.done, outcome.used, outcome.draws
        solve_problems(which, self._tables, self._start, rounds, self._options, floors, answers)


def _tables(problem: MatchingProblem, nodes: Nodes, edge_weight: float) -> tuple:
    given = problem.edge_affinity if problem.edge_affinity is not None else problem.edge_features_s
    assert given is not None
    kind = np.float32 if given.dtype == np.float32 else np.float64
    none = np.zeros((0, 0, 0), dtype=kind)
    dense, x, y = (
        none if table is None else _plain(table, kind)
        for table in (problem.edge_affinity, problem.edge_features_s, problem.edge_features_t)
    )
    edges = (_plain(e, np.int64) for e in (problem.edges_s, problem.edges_t))
    order = (_plain(n, np.int32) for n in (nodes.s, nodes.t))
    vertex = _plain(problem.vertex_affinity, np.float64)
    counts = nodes.counts.astype(np.int64)
    return vertex, (dense, x, y, float(problem.edge_offset), float(edge_weight)), (*edges, *order, counts)


def _plain(table: np.ndarray, kind: type) -> np.ndarray:
    """Return the table as the kernels were compiled for: C order, and writeable, or they would be compiled again."""
    plain: np.ndarray = np.ascontiguousarray(table, dtype=kind)
    return plain if plain.flags.writeable else plain.copy()
