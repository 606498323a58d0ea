"""Other people's solvers behind the same call, for comparison: pylibmgm (fusion moves) and pygmtools (RRWM)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from medalign_core.solvers.matching.objective import Objective, weigh
from medalign_core.solvers.matching.run import FAILED, Options, Outcome, Path, run, valid_nodes
from medalign_core.solvers.matching.tolerances import MARGIN
from medalign_core.solvers.matching_problem import MatchingProblem


class PeerPath:
    """A `run.Path` by a function of the dense form of one problem."""

    def __init__(self, problem: MatchingProblem, options: Options, solve_one: Callable) -> None:
        self._problem, self._options, self._solve_one = problem, options, solve_one

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], outcome: Outcome, *, given: bool = False
    ) -> None:
        """Solve these problems into `outcome`; rounds are ours alone."""
        for g in which.tolist():
            total, _ = weigh(self._problem, g, self._options.edge_weight)
            outcome.tally[g, FAILED] = not np.isfinite(MARGIN * total)
            s, t = valid_nodes(self._problem, g)
            if outcome.tally[g, FAILED] or not len(s):
                continue
            objective = Objective.of(self._problem, g, (s, t), edge_weight=self._options.edge_weight)
            p = self._solve_one(objective, *_pair_table(objective), partial=self._options.partial)
            outcome.matching[g, s] = np.where(p >= 0, t[np.maximum(p, 0)], -1)
            outcome.value[g, 0] = objective.value(p)


def run_peer(backend: str, problem: MatchingProblem, options: Options) -> Outcome:
    """Solve all problems of the batch by "pylibmgm" or "pygmtools".

    Raises:
        ImportError: it is not installed.
        ValueError: a mode it does not have.
    """
    if options.time_budget is not None:
        raise ValueError(f"backend {backend!r} has no time budget.")
    if backend == "pygmtools" and options.partial:
        raise ValueError("backend 'pygmtools' has no partial matching.")
    solve_one = _libmgm() if backend == "pylibmgm" else _rrwm()

    def path(problem: MatchingProblem, options: Options) -> Path:
        return PeerPath(problem, options, solve_one)

    return run(path, problem, options, None)


def _pair_table(objective: Objective) -> tuple[np.ndarray, np.ndarray]:
    """Return (keys, values): key = u * n^2 + v for assignments u < v, u = i * n + a; both directions of edges added."""
    n = len(objective.unary)
    kept = np.flatnonzero((objective.edges_t >= 0).all(axis=1))
    e, f = (x.ravel() for x in np.meshgrid(np.arange(len(objective.number_s)), kept, indexing="ij"))
    tail, head = (objective.edges_s[e, side] * n + objective.edges_t[f, side] for side in (0, 1))
    keys, place = np.unique(np.minimum(tail, head) * n * n + np.maximum(tail, head), return_inverse=True)
    return keys, np.bincount(place, objective.pairs(objective.number_s[e], f), len(keys))


def _libmgm() -> Callable:
    try:
        import pylibmgm
        from pylibmgm.solver import solve_gm
    except ImportError as error:
        raise ImportError('backend "pylibmgm" needs the package pylibmgm: pip install pylibmgm.') from error

    def solve_one(objective: Objective, keys: np.ndarray, values: np.ndarray, *, partial: bool) -> np.ndarray:
        n = len(objective.unary)
        # it minimises and may leave nodes unmatched at 0: a full matching needs a bonus that outweighs any loss
        bonus = 0.0 if partial else 4.0 * (np.abs(objective.unary).max() + np.abs(values).max(initial=0.0))
        model = pylibmgm.GmModel(pylibmgm.Graph(0, n), pylibmgm.Graph(1, n), n * n, len(keys))
        for u, value in enumerate(objective.unary.ravel().tolist()):
            model.add_assignment(u // n, u % n, -value - bonus)
        for key, value in zip(keys.tolist(), values.tolist(), strict=True):
            model.add_edge(key // (n * n), key % (n * n), -value)
        p = np.array(solve_gm(model).labeling())
        return p if partial else _completed(p)

    return solve_one


def _rrwm() -> Callable:
    try:
        import pygmtools
    except ImportError as error:
        raise ImportError('backend "pygmtools" needs the package pygmtools: pip install pygmtools.') from error

    def solve_one(objective: Objective, keys: np.ndarray, values: np.ndarray, *, partial: bool) -> np.ndarray:
        n = len(objective.unary)
        dense = np.zeros((n * n, n * n))
        u, v = keys // (n * n), keys % (n * n)
        dense[u, v] = dense[v, u] = values / 2
        dense[np.diag_indices(n * n)] = objective.unary.ravel()
        dense = np.where(dense != 0, dense - min(dense.min(), 0.0), 0.0)  # a random walk needs weights >= 0
        column_by_column = np.arange(n * n).reshape(n, n).T.ravel()  # its numbering of assignments
        dense = dense[np.ix_(column_by_column, column_by_column)]
        soft = pygmtools.rrwm(dense, n1=[n], n2=[n], backend="numpy")
        hard = pygmtools.hungarian(soft, backend="numpy")
        return hard.reshape(n, n).argmax(axis=1)

    return solve_one


def _completed(p: np.ndarray) -> np.ndarray:
    """Return the permutation with the free nodes of t given to unmatched nodes in order."""
    p = p.copy()
    p[p < 0] = np.setdiff1d(np.arange(len(p)), p)
    return p
