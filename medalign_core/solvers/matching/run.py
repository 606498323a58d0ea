"""Runs the search over the problems of a batch: node orders, what is not finite, threads, and the anytime mode."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.matching_problem import MatchingProblem

MARGIN = 16.0  # F is a sum of at most this times N sums of the affinities: all of them must stay finite
TOLERANCE = 1e-4  # of F: the slope below which a climb stops; what is left of it the polish finds sooner
FLOOR = 1e-10  # of the largest affinities: a smaller difference of F is rounding


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

    def climbing(self) -> tuple[int, float, bool, int]:
        """Return what the searches take: steps, tolerance, partial, up to how many nodes all matchings are tried."""
        return self.steps, TOLERANCE, self.partial, self.tried


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The valid nodes of each problem in the order in which the search sees them, holes at the end."""

    s: Int[np.ndarray, "G N"]
    t: Int[np.ndarray, "G N"]
    counts: Int[np.ndarray, " G"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answers: matchings, F, whether polished to the end, assignments solved, states of the draws, failures."""

    matching: Int[np.ndarray, "G N"]
    value: Float[np.ndarray, " G"]
    done: Bool[np.ndarray, " G"]
    used: Int[np.ndarray, " G"]
    draws: Int[np.ndarray, " G"]
    failed: Bool[np.ndarray, " G"]
    trace: tuple[Float[np.ndarray, "_ 2"], ...] = ()


@runtime_checkable
class Path(Protocol):
    """A way to run the search: in NumPy or compiled."""

    def magnitudes(self) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
        """Return a bound on any sum of each problem's affinities, and the size of its largest."""

    def solve(
        self, which: Int[np.ndarray, " P"], rounds: tuple[int, int], floors: Float[np.ndarray, " G"], outcome: Outcome
    ) -> None:
        """Search these problems from one round to another, into `outcome`, whose matchings are numbered as in Nodes.

        Round 0 begins with the assignment and climbs from it or from the start; round 1 climbs from the barycentre;
        every further one from the best matching with some partners vetoed, and fuses. What `outcome` holds is read
        where the first round is not 0.
        """


def run(
    path: Callable[[MatchingProblem, Nodes, Options, np.ndarray | None], Path],
    problem: MatchingProblem,
    options: Options,
    start: Int[np.ndarray, "G N"] | None,
) -> Outcome:
    """Solve all problems of the batch."""
    graphs, size = problem.vertex_affinity.shape[:2]
    nodes = node_orders(problem)
    way = path(problem, nodes, options, None if start is None else _renumbered(start, nodes))
    total, largest = way.magnitudes()
    with np.errstate(over="ignore", invalid="ignore"):
        failed = ~np.isfinite(total * MARGIN * size)
    outcome = Outcome(
        matching=np.full((graphs, size), -1, dtype=np.int32),
        value=np.zeros(graphs),
        done=np.ones(graphs, dtype=bool),
        used=np.zeros(graphs, dtype=np.int64),
        draws=np.ones(graphs, dtype=np.int64),
        failed=failed,
        trace=() if options.time_budget is None else tuple(np.zeros((0, 2)) for _ in range(graphs)),
    )
    sound = np.flatnonzero(~failed & (nodes.counts > 0))
    traces = _spread(way, sound, nodes.counts, floors=FLOOR * largest, options=options, outcome=outcome)
    matching = _own_numbers(outcome.matching, nodes)
    for g in np.flatnonzero(failed).tolist():
        matching[g] = _assign_finite(problem, nodes, g, options.partial)
        outcome.value[g], outcome.used[g] = np.nan, 1
    trace = tuple(traces.get(g, empty) for g, empty in enumerate(outcome.trace))
    return replace(outcome, matching=matching, trace=trace)


def node_orders(problem: MatchingProblem) -> Nodes:
    """Return the order of the nodes: those of t as `order` says, holes last."""
    graphs, size = problem.vertex_affinity.shape[:2]
    plain = np.tile(np.arange(size, dtype=np.int32), (graphs, 1))
    t = plain if problem.order is None else problem.order.astype(np.int32)
    if problem.valid is None:
        return Nodes(s=plain, t=t, counts=np.full(graphs, size))
    s_last = np.argsort(~problem.valid, axis=1, kind="stable")
    t_last = np.argsort(~np.take_along_axis(problem.valid, t.astype(np.int64), axis=1), axis=1, kind="stable")
    return Nodes(
        s=s_last.astype(np.int32),
        t=np.take_along_axis(t, t_last, axis=1),
        counts=problem.valid.sum(axis=1),
    )


def _spread(
    way: Path, which: np.ndarray, counts: np.ndarray, *, floors: np.ndarray, options: Options, outcome: Outcome
) -> dict[int, np.ndarray]:
    """Solve on as many threads as asked for; the kernels release the interpreter. Return the traces."""

    def one(g: int) -> tuple[int, np.ndarray]:
        return g, _spend(way, g, int(counts[g]), floors=floors, options=options, outcome=outcome)

    def some(part: np.ndarray) -> None:
        way.solve(part, (0, options.starts), floors, outcome)

    if options.time_budget is not None:
        if options.threads == 1:
            return dict(one(int(g)) for g in which)
        with ThreadPoolExecutor(options.threads) as pool:
            return dict(pool.map(one, which.tolist()))
    if options.threads == 1 or len(which) < 2:
        some(which)
        return {}
    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(some, np.array_split(which, min(len(which), 4 * options.threads))))
    return {}


def _spend(way: Path, g: int, count: int, *, floors: np.ndarray, options: Options, outcome: Outcome) -> np.ndarray:
    """Search problem g and improve until the time is over; return (R, 2) seconds and F, rising."""
    assert options.time_budget is not None
    begin, which = perf_counter(), np.array([g])
    way.solve(which, (0, options.starts), floors, outcome)
    trace = [(perf_counter() - begin, float(outcome.value[g]))]
    if not options.starts or count <= max(2, options.tried):
        return np.array(trace)
    at, rounds = max(2, options.starts), 1
    while perf_counter() - begin < options.time_budget:
        before = perf_counter()
        way.solve(which, (at, at + rounds), floors, outcome)
        now = perf_counter()
        if outcome.value[g] > trace[-1][1]:
            trace.append((now - begin, float(outcome.value[g])))
        at += rounds
        left = options.time_budget - (now - begin)
        rounds = max(1, int(rounds * min(2.0, min(0.02, left) / max(now - before, 1e-6))))
    return np.array(trace)


def _renumbered(start: np.ndarray, nodes: Nodes) -> np.ndarray:
    """Return matchings in the numbers of Nodes, -1 where they name a hole."""
    place = np.argsort(nodes.t, axis=1)
    inside = np.arange(start.shape[1]) < nodes.counts[:, None]
    of_node = np.take_along_axis(start, nodes.s.astype(np.int64), axis=1)
    found = np.take_along_axis(place, np.maximum(of_node, 0), axis=1)
    return np.where((of_node >= 0) & inside & (found < nodes.counts[:, None]), found, -1).astype(np.int32)


def _own_numbers(matching: np.ndarray, nodes: Nodes) -> np.ndarray:
    """Return matchings in the numbers of the problem; a hole is matched to itself."""
    graphs, size = matching.shape
    own = np.tile(np.arange(size), (graphs, 1))
    rows, columns = np.nonzero(np.arange(size) < nodes.counts[:, None])
    p = matching[rows, columns]
    own[rows, nodes.s[rows, columns]] = np.where(p >= 0, nodes.t[rows, np.maximum(p, 0)], -1)
    return own


def _assign_finite(problem: MatchingProblem, nodes: Nodes, g: int, partial: bool) -> np.ndarray:
    """Return the assignment by the vertex affinities of problem g that are usable, the others below them all."""
    n = int(nodes.counts[g])
    s, t = nodes.s[g, :n], nodes.t[g, :n]
    vertex = problem.vertex_affinity[g][np.ix_(s, t)].astype(np.float64)
    usable = np.isfinite(vertex) & (np.abs(np.nan_to_num(vertex)) < 1e100)
    lowest = vertex[usable].min() - 1.0 if usable.any() else 0.0
    p = assign(np.where(usable, vertex, min(lowest, -1.0) if partial else lowest)[None], partial=partial)[0]
    matching = np.arange(problem.size)
    matching[s] = np.where(p >= 0, t[np.maximum(p, 0)], -1)
    return matching
