"""The better matching that an estimator pulls towards, by a second solve or, where it is proven, without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from medalign_core.solvers.graph_matching import MatchingResult
from medalign_core.solvers.matching_problem import MatchingProblem, matched_edges, pair_affinity


@dataclass(frozen=True, kw_only=True)
class Target:
    """The better matchings that the estimator pulls towards.

    Attributes:
        matching: (G, N).
        solved: (G,), True where a second solve was needed, False where its answer is proven.
    """

    matching: Int[np.ndarray, "G N"]
    solved: Bool[np.ndarray, " G"]


def hamming(matching: Int[np.ndarray, "G N"], valid: Bool[np.ndarray, "G N"] | None = None) -> Float[np.ndarray, " G"]:
    """Return L = sum of v (1 - v*) + v* (1 - v), v* the identity: 2 for a wrong pair, 1 for an unmatched node (-1).

    In {0, 4, 6, .., 2N} for permutations and in [0, 2N] for partial matchings; divide by the number of nodes for the
    mean over nodes (LoGra-Med: 1/N an unmatched node, 2/N a wrong one). dL/dv = 1 - 2 v*. Holes count nothing.
    """
    cost = np.where(matching < 0, 1.0, 2.0 * (matching != np.arange(matching.shape[1])))
    return (cost if valid is None else np.where(valid, cost, 0.0)).sum(axis=1)


def target_matching(
    solver: Callable[[MatchingProblem], MatchingResult],
    problem: MatchingProblem,
    found: Int[np.ndarray, "G N"],
    *,
    strength: Float[np.ndarray, " G"],
    edge_weight: float,
    partial: bool = False,
    always_solve: bool = False,
) -> Target:
    """Return argmax of F at V - strength * (1 - 2 v*), the affinities moved against the Hamming loss to the identity.

    The second solve is skipped where its answer is known: where strength > 0 and the identity is already `found`,
    since the shift raises it by more than any other; where the identity is *proven* to be the unique optimum of the
    shifted problem (`is_saturated`; at the published lambda = 80 that is always, and the estimator is a structured
    perceptron); and where strength is 0.

    Args:
        solver: solves the shifted problem; called with the members that need it only.
        problem: the (perturbed) problem that was solved. The same perturbation is kept.
        found: its solution, -1 at unmatched nodes.
        strength: how far each problem is moved: lambda, times the incoming gradient in the published estimator.
        edge_weight: the solver's weight of the second-order term, needed by the proof.
        partial: whether nodes may stay unmatched, needed by the proof.
        always_solve: solve all the same (the test oracle of the short cuts).
    """
    identity = np.arange(problem.size)
    right = (found == identity) if problem.valid is None else (found == identity) | ~problem.valid
    known = right.all(axis=1) & (strength > 0)
    if not known.all():
        known |= is_saturated(problem, strength=strength, edge_weight=edge_weight, partial=partial)
    matching = np.where(known[:, None], identity, found)
    needs = np.ones(len(found), dtype=bool) if always_solve else ~known & (strength != 0)
    if needs.any():
        move = strength[needs, None, None] * (1.0 - 2.0 * np.eye(problem.size))
        members = _members(problem, needs)
        matching[needs] = solver(replace(members, vertex_affinity=members.vertex_affinity - move)).matching
    return Target(matching=matching, solved=needs)


def is_saturated(
    problem: MatchingProblem, *, strength: Float[np.ndarray, " G"], edge_weight: float, partial: bool = False
) -> Bool[np.ndarray, " G"]:
    """Return where the identity is certainly the unique optimum of the problem shifted by `strength`.

    A matching loses 2 * strength by the shift for each wrong node, and 1 * strength for each unmatched one. What it can
    gain over the identity is at most, for each such node, its best vertex affinity (0 if unmatched) less its own, and
    for each edge at it the best edge affinity (or 0) less what the edge has under the identity. So it is enough that
    each node alone would lose. In factor form the best edge affinity is bounded by |x_e| max_f |y_f| + edge_offset
    (Cauchy-Schwarz), so nothing of size (N k)^2 is built. Not finite: False. A coarser bound is tried first.
    """
    loose = _loses(problem, _edge_gains_at_most(problem, edge_weight), strength, partial)
    return loose if loose.all() else _loses(problem, _edge_gains(problem, edge_weight), strength, partial)


def _loses(problem: MatchingProblem, edge_gains: np.ndarray, strength: np.ndarray, partial: bool) -> np.ndarray:
    """Return (G,): whether every node loses by the shift more than it can gain, given bounds (G, S) on edges' gains."""
    rows, vertex = np.arange(len(problem.vertex_affinity))[:, None], problem.vertex_affinity
    with np.errstate(invalid="ignore", over="ignore"):
        ends = (problem.edges_s + problem.size * rows[..., None]).ravel()
        at_node = np.bincount(ends, weights=np.repeat(edge_gains, 2), minlength=rows.size * problem.size)
        at_node = at_node.reshape(vertex.shape[:2])
        own = np.diagonal(vertex, axis1=1, axis2=2)
        margin = 2.0 * strength[:, None] - (vertex.max(axis=2) - own + at_node)
        if partial:
            margin = np.minimum(margin, strength[:, None] - (at_node - own))
        if problem.valid is not None:
            margin = np.where(problem.valid, margin, np.inf)
        return (margin > 0).all(axis=1)


def _edge_gains_at_most(problem: MatchingProblem, edge_weight: float) -> np.ndarray:
    """Return (G, S), not below `_edge_gains` and cheap: one bound for all edges of a graph."""
    shape = problem.edges_s.shape[:2]
    if problem.edges_s.size == 0 or problem.edges_t.size == 0 or edge_weight == 0:
        return np.zeros(shape)
    if problem.edge_affinity is not None:
        highest, lowest = problem.edge_affinity.max(axis=(1, 2)), problem.edge_affinity.min(axis=(1, 2))
    else:
        longest = [length.max(axis=1) for length in _feature_lengths(problem)]
        highest = longest[0] * longest[1] + problem.edge_offset
        lowest = problem.edge_offset - longest[0] * longest[1]
    span = np.maximum(highest, 0.0) - np.minimum(lowest, 0.0)
    return np.broadcast_to(edge_weight * span[:, None], shape)


def _edge_gains(problem: MatchingProblem, edge_weight: float) -> np.ndarray:
    """Return (G, S): w times the most that each edge of s could pay elsewhere less what it pays under the identity."""
    if problem.edges_s.size == 0 or problem.edges_t.size == 0 or edge_weight == 0:
        return np.zeros(problem.edges_s.shape[:2])
    if problem.edge_affinity is not None:
        best = problem.edge_affinity.max(axis=2)
    else:
        lengths = _feature_lengths(problem)
        best = lengths[0] * lengths[1].max(axis=1, keepdims=True) + problem.edge_offset
    identity = np.broadcast_to(np.arange(problem.size), problem.vertex_affinity.shape[:2])
    own = matched_edges(problem, identity)
    lands = own >= 0
    kept = np.zeros(best.shape)
    graph, edge = np.nonzero(lands)
    kept[lands] = pair_affinity(problem, graph, edge, own[lands])
    return edge_weight * (np.maximum(best, 0.0) - kept)  # 0: an edge may also end on a pair that is no edge of t


def _feature_lengths(problem: MatchingProblem) -> list[np.ndarray]:
    """Return |x_e| and |y_f|, a little too long: single precision rounds, and a bound must not lie below its value."""
    assert problem.edge_features_s is not None
    assert problem.edge_features_t is not None
    return [
        (1 + 1e-5) * np.sqrt(np.einsum("ged,ged->ge", x, x)) for x in (problem.edge_features_s, problem.edge_features_t)
    ]


def _members(problem: MatchingProblem, kept: np.ndarray) -> MatchingProblem:
    """Return the problems that are kept."""
    fields = {name: getattr(problem, name) for name in MatchingProblem.__dataclass_fields__}
    if kept.all():
        return problem
    return MatchingProblem(
        **{name: value[kept] if isinstance(value, np.ndarray) else value for name, value in fields.items()}
    )
