"""The second-order graph matching solver: its settings, its result, and the choice of the path that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.backends import compiled_available
from medalign_core.solvers.matching.run import DONE, FAILED, USED, Options, Outcome, run
from medalign_core.solvers.matching_problem import MatchingProblem

Backend = Literal["auto", "numpy", "compiled", "pylibmgm", "pygmtools"]


class Status(IntEnum):
    """How a problem ended: FAILED means its affinities were not finite and only their finite part was matched."""

    CONVERGED = 0
    STEP_LIMIT = 1
    FAILED = 2


@dataclass(frozen=True, kw_only=True)
class MatchingResult:
    """What the solver found for each of G problems.

    Attributes:
        matching: (G, N), node matching[i] of t for each node i of s: always a permutation, or in the partial mode an
            injection of the nodes that are matched, with -1 at the others.
        objective: (G,), F of it (see MatchingProblem); nan where the problem FAILED.
        status: (G,), a Status each. CONVERGED: no pair swap improves the matching. It is a local optimum; there is no
            certificate that it is the best.
        iterations: (G,), linear assignments solved, over all starts.
        backend: which path ran, "numpy", "compiled", "pylibmgm" or "pygmtools".
        trace: in the anytime mode, for each problem (R, 2): seconds since its start and the objective first reached
            then, rising; else empty.
    """

    matching: Int[np.ndarray, "G N"]
    objective: Float[np.ndarray, " G"]
    status: Int[np.ndarray, " G"]
    iterations: Int[np.ndarray, " G"]
    backend: str = "numpy"
    trace: tuple[Float[np.ndarray, "_ 2"], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GraphMatching:
    """Second-order matching of two graphs, max over matchings of F (see MatchingProblem), heuristically.

    A climb is Frank-Wolfe (as FAQ, Vogelstein et al. 2015, on Lawler's form): F is quadratic, so the gradient at a mix
    of matchings is the mix of their sparse gradients, and a step costs one linear assignment and O(N k^2). Its best
    matching is polished by the exchange of two partners that gains most, until none gains. The first climb starts from
    the assignment by vertex affinity, the eighth from the barycentre, every other one from the best matching so far
    with some partners vetoed, and is fused into it: each cycle or path in which the two differ is taken over if that
    gains. The result is never worse than the assignment, and F is what the problem's affinities say of the matching.

    Without a time budget the answer is a function of the problem alone: not of its neighbours in the batch, of the
    machine's load, or of the number of threads; and the same on both paths up to ties and rounding.

    Attributes:
        edge_weight: w, the weight of the second-order term, >= 0; 0.5 is the convention of BB-GM (Rolinek 2020).
        steps: Frank-Wolfe steps per climb at most, >= 1.
        starts: how many climbs, >= 1; None chooses by N (see `default_starts`) and tries all matchings of up to 7 valid
            nodes (5 if partial), whose result is the optimum.
        second_order: False leaves the linear assignment, exactly.
        partial: True lets nodes stay unmatched, at 0: every row and column of the matching sums to at most 1.
        backend: "compiled" runs kernels of numba, "numpy" the same search in NumPy and SciPy, "auto" the first if numba
            is installed. "pylibmgm" (fusion moves, Hutschenreiter et al. 2021) and "pygmtools" (RRWM, Cho et al. 2010)
            are for comparison, must be installed, and know neither a time budget nor a start.
        time_budget: seconds a problem, the anytime mode: go on with further climbs until then. Reproducible only as far
            as the machine's speed is. None: no more climbs than `starts`.
        threads: how many problems at a time, >= 1.
    """

    edge_weight: float = 1.0
    steps: int = 40
    starts: int | None = None
    second_order: bool = True
    partial: bool = False
    backend: Backend = "auto"
    time_budget: float | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.edge_weight) and self.edge_weight >= 0):
            raise ValueError(f"edge_weight must be finite and >= 0, got {self.edge_weight}.")
        if self.steps < 1 or (self.starts is not None and self.starts < 1):
            raise ValueError(f"steps and starts must be >= 1, got {self.steps} and {self.starts}.")
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {self.backend!r}.")
        if self.time_budget is not None and not 0 <= self.time_budget < float("inf"):
            raise ValueError(f"time_budget must be finite seconds >= 0, or None, got {self.time_budget}.")
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}.")

    def __call__(self, problem: MatchingProblem, *, start: Int[np.ndarray, "G N"] | None = None) -> MatchingResult:
        """Solve a batch. Problems with non-finite affinities fall back to the assignment and are marked FAILED.

        Args:
            problem: G problems.
            start: a matching of each to climb from in place of the assignment, -1 at unmatched nodes.

        Raises:
            ValueError: `start` holds no matchings of this mode.
            ImportError: the backend asked for is not installed.
        """
        if start is not None:
            _check_start(start, problem, partial=self.partial)
        backend = self._backend()
        if backend in ("pylibmgm", "pygmtools"):
            from medalign_core.solvers.matching.peers import run_peer

            return _result(run_peer(backend, problem, self._options(problem)), backend)
        return _result(run(_path(backend), problem, self._options(problem), start), backend)

    def _backend(self) -> str:
        if self.backend == "compiled" and not compiled_available():
            raise ImportError('backend "compiled" needs numba: pip install numba.')
        if self.backend == "auto":
            return "compiled" if compiled_available() else "numpy"
        return self.backend

    def _options(self, problem: MatchingProblem) -> Options:
        linear = not (self.second_order and self.edge_weight > 0 and problem.edges_s.size and problem.edges_t.size)
        starts = default_starts(problem.size) if self.starts is None else self.starts
        return Options(
            starts=0 if linear else starts,
            tried=0 if linear or self.starts is not None else 5 if self.partial else 7,
            steps=self.steps,
            partial=self.partial,
            edge_weight=self.edge_weight if self.second_order else 0.0,
            time_budget=self.time_budget,
            threads=self.threads,
        )


def default_starts(nodes: int) -> int:
    """Return how many climbs a problem of N nodes gets.

    Below 64 nodes further climbs cost next to nothing; from there on one takes about as long as a few linear
    assignments, and further ones are for who wants the last percent: starts=64, or a time budget.
    """
    if nodes <= 16:
        return 3
    return 16 if nodes < 64 else 1


def _path(backend: str):  # type: ignore[no-untyped-def]
    if backend == "compiled":
        from medalign_core.solvers.matching.run_compiled import CompiledPath

        return CompiledPath
    from medalign_core.solvers.matching.run_numpy import NumpyPath

    return NumpyPath


def _result(outcome: Outcome, backend: str) -> MatchingResult:
    status = np.where(outcome.tally[:, DONE], int(Status.CONVERGED), int(Status.STEP_LIMIT))
    return MatchingResult(
        matching=outcome.matching,
        objective=outcome.value[:, 0],
        status=np.where(outcome.tally[:, FAILED], int(Status.FAILED), status),
        iterations=outcome.tally[:, USED],
        backend=backend,
        trace=outcome.trace,
    )


def _check_start(start: np.ndarray, problem: MatchingProblem, *, partial: bool) -> None:
    graphs, size = problem.vertex_affinity.shape[:2]
    if start.shape != (graphs, size) or start.min(initial=0) < -1 or start.max(initial=-1) >= size:
        raise ValueError(f"start must be ({graphs}, {size}) nodes of t, -1 where unmatched.")
    ordered = np.sort(np.where(start < 0, size + np.arange(size), start), axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("start must not match two nodes to the same one.")
    if not partial and (start < 0).any():
        raise ValueError("start must match every node, unless the solver is partial.")
