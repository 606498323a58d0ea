"""Runs the search over the problems of a batch: what is not finite, threads, and the anytime mode."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.matching_problem import MatchingProblem

DONE, USED, DRAWS, FAILED = range(4)  # the columns of Outcome.tally


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to search; see GraphMatching. starts = 0 leaves the assignment by vertex affinity."""

    starts: int
    tried: int
    steps: int
    partial: bool
    edge_weight: float
    time_budget: float | None
    threads: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answers, in the problem's numbers.

    Attributes:
        matching: the best of each problem; a hole is matched to itself.
        value: F of it, and what F must grow by to be better.
        tally: whether polished to the end, assignments solved, the state of the draws, and whether it failed.
        trace: seconds and F, rising, in the anytime mode.
    """

    matching: Int[np.ndarray, "G N"]
    value: Float[np.ndarray, "G 2"]
    tally: Int[np.ndarray, "G 4"]
    trace: tuple[Float[np.ndarray, "_ 2"], ...] = ()


@runtime_checkable
class Path(Protocol):
    """A way to run the search: in NumPy or compiled."""

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], outcome: Outcome, *, given: bool = False
    ) -> None:
        """Search these problems from one round to another, into `outcome`, of whose matchings only theirs are written.

        Round 0 weighs the affinities, begins with the assignment and climbs from it or, if `given`, from the matching
        in `outcome`; round BARYCENTRE climbs from there; every other one from the best matching so far with some
        partners vetoed, and fuses. What `outcome` holds is read where the first round is not 0. A problem whose
        affinities do not add up to finite numbers is marked and left alone.
        """


def run(
    path: Callable[[MatchingProblem, Options], Path],
    problem: MatchingProblem,
    options: Options,
    start: Int[np.ndarray, "G N"] | None,
) -> Outcome:
    """Solve all problems of the batch."""
    graphs, size = problem.vertex_affinity.shape[:2]
    matching = np.empty((graphs, size), dtype=np.int64)
    matching[:] = np.arange(size) if start is None else start
    if start is not None and problem.valid is not None:
        matching = np.where(problem.valid, matching, np.arange(size))
    outcome = Outcome(matching=matching, value=np.zeros((graphs, 2)), tally=np.zeros((graphs, 4), dtype=np.int64))
    outcome.tally[:] = (1, 0, 1, 0)
    counts = np.full(graphs, size) if problem.valid is None else problem.valid.sum(axis=1)
    trace = _spread(path(problem, options), outcome, counts, options=options, given=start is not None)
    for g in np.flatnonzero(outcome.tally[:, FAILED]).tolist():
        matching[g] = _assign_finite(problem, g, options.partial)
        outcome.value[g, 0], outcome.tally[g, USED] = np.nan, 1
    return replace(outcome, trace=trace)


def valid_nodes(problem: MatchingProblem, g: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return the valid nodes of s, and those of t in the order in which the search sees them."""
    order = np.arange(problem.size) if problem.order is None else problem.order[g]
    valid = np.ones(problem.size, dtype=bool) if problem.valid is None else problem.valid[g]
    return np.flatnonzero(valid), order[valid[order]]


def _spread(
    way: Path, outcome: Outcome, counts: np.ndarray, *, options: Options, given: bool
) -> tuple[Float[np.ndarray, "_ 2"], ...]:
    """Solve on as many threads as asked for; the kernels release the interpreter. Return the traces."""
    which = np.arange(len(outcome.matching))

    def one(g: int) -> np.ndarray:
        few = counts[g] <= max(2, options.tried)  # all their matchings are tried at once
        return _spend(way, g, outcome, options=options, given=given, once=few or not options.starts)

    def some(part: np.ndarray) -> None:
        way.solve(part, (0, options.starts), outcome, given=given)

    if options.time_budget is not None:
        if options.threads == 1:
            return tuple(one(g) for g in which.tolist())
        with ThreadPoolExecutor(options.threads) as pool:
            return tuple(pool.map(one, which.tolist()))
    if options.threads == 1 or len(which) < 2:
        some(which)
        return ()
    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(some, np.array_split(which, min(len(which), 4 * options.threads))))
    return ()


def _spend(way: Path, g: int, outcome: Outcome, *, options: Options, given: bool, once: bool) -> np.ndarray:
    """Search problem g and improve until the time is over; return (R, 2) seconds and F, rising."""
    assert options.time_budget is not None
    begin, which, value = perf_counter(), np.array([g]), outcome.value[g]
    way.solve(which, (0, options.starts), outcome, given=given)
    if outcome.tally[g, FAILED]:
        return np.zeros((0, 2))
    trace = [(perf_counter() - begin, float(value[0]))]
    if once:
        return np.array(trace)
    at, rounds = max(1, options.starts), 1
    while perf_counter() - begin < options.time_budget:
        before = perf_counter()
        way.solve(which, (at, at + rounds), outcome)
        now = perf_counter()
        if value[0] > trace[-1][1]:
            trace.append((now - begin, float(value[0])))
        at += rounds
        left = options.time_budget - (now - begin)
        rounds = max(1, int(rounds * min(2.0, min(0.02, left) / max(now - before, 1e-6))))
    return np.array(trace)


def _assign_finite(problem: MatchingProblem, g: int, partial: bool) -> np.ndarray:
    """Return the assignment by the vertex affinities of problem g that are usable, the others below them all."""
    s, t = valid_nodes(problem, g)
    vertex = problem.vertex_affinity[g][np.ix_(s, t)].astype(np.float64)
    usable = np.isfinite(vertex) & (np.abs(np.nan_to_num(vertex)) < 1e100)
    lowest = vertex[usable].min() - 1.0 if usable.any() else 0.0
    p = assign(np.where(usable, vertex, min(lowest, -1.0) if partial else lowest)[None], partial=partial)[0]
    matching = np.arange(problem.size)
    matching[s] = np.where(p >= 0, t[np.maximum(p, 0)], -1)
    return matching
