"""The second-order graph matching solver: many Frank-Wolfe starts, each polished by pair swaps; the best one wins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.frank_wolfe import SoftPoint, frank_wolfe, permutation_point, swap_polish, uniform_point
from medalign_core.solvers.matching_problem import Calculus, MatchingProblem


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
    trace: tuple[Float[np.ndarray, "R 2"], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GraphMatching:
    """Second-order matching of two graphs, max over permutations of F (see MatchingProblem), heuristically.

    The starts are the assignment by vertex affinity, the barycentre, and random permutations (the same ones for every
    problem, so a problem's answer does not depend on its neighbours in the batch). The time is bounded by `steps`, not
    by a clock, so the answer does not depend on the machine's load. The result is never worse than the assignment.

    Attributes:
        edge_weight: w, the weight of the second-order term, >= 0; 0.5 is the convention of BB-GM (Rolinek 2020).
        steps: Frank-Wolfe steps per start, >= 1.
        starts: how many starts, >= 1.
        second_order: False leaves the linear assignment, exactly.
        partial: True lets nodes stay unmatched, at 0: every row and column of the matching sums to at most 1.
        backend: "auto" takes "compiled" where numba can be imported, else "numpy"; "pylibmgm" and "pygmtools" are for
            comparison and must be installed.
        time_budget: seconds a problem for the anytime mode, which kicks, climbs and fuses until then; None for none.
        threads: how many problems at a time.
    """

    edge_weight: float = 1.0
    steps: int = 20
    starts: int = 8
    second_order: bool = True
    partial: bool = False
    backend: Literal["auto", "numpy", "compiled", "pylibmgm", "pygmtools"] = "auto"
    time_budget: float | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.edge_weight) and self.edge_weight >= 0):
            raise ValueError(f"edge_weight must be finite and >= 0, got {self.edge_weight}.")
        if self.steps < 1 or self.starts < 1:
            raise ValueError(f"steps and starts must be >= 1, got {self.steps} and {self.starts}.")

    def __call__(self, problem: MatchingProblem) -> MatchingResult:
        """Solve a batch. Problems with non-finite affinities fall back to the assignment and are marked FAILED."""
        if self.partial:
            full = replace(self, partial=False)(_with_dummies(problem))
            found = full.matching[:, : problem.size]
            return replace(full, matching=np.where(found < problem.size, found, -1))
        order = None if problem.order is None else _order_of_valid(problem)
        shuffled = problem if order is None else _reorder(problem, order)
        failed = _not_finite(shuffled)
        if failed.any():
            shuffled = _without_non_finite(shuffled, failed)
        calculus = Calculus.of(shuffled, edge_weight=self.edge_weight, second_order=self.second_order)
        result = self._assignment(calculus) if not self._is_quadratic(shuffled) else self._search(shuffled, calculus)
        if failed.any():
            result = replace(
                result,
                objective=np.where(failed, np.nan, result.objective),
                status=np.where(failed, int(Status.FAILED), result.status),
            )
        if order is None:
            return result
        return replace(result, matching=np.take_along_axis(order, result.matching, axis=1))

    def _is_quadratic(self, problem: MatchingProblem) -> bool:
        return self.second_order and self.edge_weight > 0 and problem.edges_s.size > 0 and problem.edges_t.size > 0

    def _assignment(self, calculus: Calculus) -> MatchingResult:
        matching = assign(calculus.unary)
        every = np.arange(len(matching))
        return MatchingResult(
            matching=matching,
            objective=calculus.score(every, matching),
            status=np.full(len(matching), int(Status.CONVERGED)),
            iterations=np.ones(len(matching), dtype=np.int64),
        )

    def _search(self, problem: MatchingProblem, calculus: Calculus) -> MatchingResult:
        first = assign(calculus.unary)
        graphs, size = first.shape
        valid = np.ones((graphs, size), dtype=bool) if problem.valid is None else problem.valid
        at, start = self._starts(calculus, problem, valid, first)
        found, _, used = frank_wolfe(calculus, at, start, steps=self.steps)
        at, found = np.concatenate([np.arange(graphs), at]), np.concatenate([first, found])
        found, done = swap_polish(calculus, at, found, rounds=4 * size)
        value = calculus.score(at, found).reshape(-1, graphs)
        best = value.argmax(axis=0)
        every = np.arange(graphs)
        return MatchingResult(
            matching=found.reshape(-1, graphs, size)[best, every],
            objective=value[best, every],
            status=np.where(done.reshape(-1, graphs)[best, every], int(Status.CONVERGED), int(Status.STEP_LIMIT)),
            iterations=1 + used.reshape(-1, graphs).sum(axis=0),
        )

    def _starts(
        self, calculus: Calculus, problem: MatchingProblem, valid: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, SoftPoint]:
        """Return P = starts * G start points and the problem each belongs to, start by start."""
        every = np.arange(len(first))
        points = [permutation_point(calculus, every, first)]
        if self.starts > 1:
            points.append(uniform_point(calculus, valid, problem.edges_t))
        draws = np.random.default_rng(0)  # fixed: the answer is a function of the problem alone
        for _ in range(self.starts - 2):
            points.append(
                permutation_point(
                    calculus, every, _shuffle_valid(np.tile(draws.random(valid.shape[1]), (len(valid), 1)), valid)
                )
            )
        names = ("gradient", "linear", "quadratic")
        joined = {name: np.concatenate([getattr(point, name) for point in points]) for name in names}
        return np.tile(every, len(points)), SoftPoint(**joined)


def _order_of_valid(problem: MatchingProblem) -> np.ndarray:
    """Return problem.order with every hole at its own place and the valid nodes in the given order around them."""
    assert problem.order is not None
    if problem.valid is None:
        return problem.order
    return _shuffle_valid(np.argsort(problem.order, axis=1), problem.valid)


def _reorder(problem: MatchingProblem, order: np.ndarray) -> MatchingProblem:
    """Return the problem with the nodes of t in the given order: new node a is old node order[a]."""
    place = np.argsort(order, axis=1)
    rows = np.arange(len(place))[:, None, None]
    columns = order[:, None, :].repeat(problem.size, axis=1)
    return replace(
        problem,
        vertex_affinity=np.take_along_axis(problem.vertex_affinity, columns, axis=2),
        edges_t=place[rows, problem.edges_t],
        order=None,
    )


def _not_finite(problem: MatchingProblem) -> np.ndarray:
    """Return where sums of the affinities would not stay finite either."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.abs(problem.vertex_affinity.astype(np.float64)).sum(axis=(1, 2))
        total = total + np.abs(problem.dense_edge_affinity().astype(np.float64)).sum(axis=(1, 2))
        return ~np.isfinite(total * 16.0 * problem.size)


def _without_non_finite(problem: MatchingProblem, failed: np.ndarray) -> MatchingProblem:
    """Return the problem with failed members reduced to an assignment over the entries that are usable."""
    vertex, edge = problem.vertex_affinity.copy(), problem.dense_edge_affinity().copy()
    edge[failed] = 0.0
    for g in np.flatnonzero(failed):
        usable = np.isfinite(vertex[g]) & (np.abs(np.nan_to_num(vertex[g])) < 1e100)
        lowest = vertex[g][usable].min() - 1.0 if usable.any() else 0.0
        vertex[g] = np.where(usable, vertex[g], lowest)
    return replace(problem, vertex_affinity=vertex, edge_affinity=edge, edge_features_s=None, edge_features_t=None)


def _shuffle_valid(keys: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return permutations (G, N) that shuffle the valid nodes by `keys` and leave every hole at its place."""
    matching = np.tile(np.arange(valid.shape[1]), (len(valid), 1))
    for row, key, kept in zip(matching, keys, valid, strict=True):
        nodes = np.flatnonzero(kept)
        row[nodes] = nodes[np.argsort(key[nodes], kind="stable")]
    return matching


def _with_dummies(problem: MatchingProblem) -> MatchingProblem:
    """Return the full problem of twice the size whose solutions are the partial matchings."""
    size = problem.size
    pad, tail = ((0, 0), (0, size)), np.arange(size, 2 * size)
    return replace(
        problem,
        vertex_affinity=np.pad(problem.vertex_affinity, (*pad, (0, size))),
        valid=None if problem.valid is None else np.pad(problem.valid, pad, constant_values=True),
        order=None if problem.order is None else np.hstack([problem.order, np.tile(tail, (len(problem.order), 1))]),
    )
