"""The search in NumPy and SciPy, problem by problem."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from medalign_core.solvers.matching.objective import Objective, weigh
from medalign_core.solvers.matching.run import DONE, DRAWS, FAILED, USED, Options, Outcome, valid_nodes
from medalign_core.solvers.matching.search import Search
from medalign_core.solvers.matching.tolerances import FLOOR, MARGIN
from medalign_core.solvers.matching_problem import MatchingProblem


class NumpyPath:
    """A `run.Path`: needs no compiler."""

    def __init__(self, problem: MatchingProblem, options: Options) -> None:
        self._problem, self._options = problem, options
        self._objectives: dict[int, Objective] = {}

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], outcome: Outcome, *, given: bool = False
    ) -> None:
        """Search these problems from one round to another, into `outcome`."""
        for g in which.tolist():
            value, tally = outcome.value[g], outcome.tally[g]
            if rounds[0] == 0:
                total, largest = weigh(self._problem, g, self._options.edge_weight)
                value[1], tally[FAILED] = FLOOR * largest, not np.isfinite(MARGIN * total)
            s, t = valid_nodes(self._problem, g)
            if tally[FAILED] or not len(s):
                continue
            place = np.full(self._problem.size, -1)
            place[t] = np.arange(len(t))
            p = outcome.matching[g, s]
            p = np.where(p >= 0, place[np.maximum(p, 0)], -1)
            search = Search(self._objective(g, (s, t)), self._options, float(value[1]))
            search.p, search.value = p, float(value[0])
            search.done, search.used, search.draws = bool(tally[DONE]), int(tally[USED]), int(tally[DRAWS])
            search.run(p if given else None, rounds)
            outcome.matching[g, s] = np.where(search.p >= 0, t[np.maximum(search.p, 0)], -1)
            value[0], tally[DONE], tally[USED], tally[DRAWS] = search.value, search.done, search.used, search.draws

    def _objective(self, g: int, nodes: tuple[np.ndarray, np.ndarray]) -> Objective:
        """Return the tables of problem g; the anytime mode, which calls again and again, keeps them."""
        if g not in self._objectives:
            made = Objective.of(self._problem, g, nodes, edge_weight=self._options.edge_weight)
            if self._options.time_budget is None:
                return made
            self._objectives[g] = made
        return self._objectives[g]
