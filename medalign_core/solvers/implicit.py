"""Gradients of discrete matchings: the target of I-MLE / black-box differentiation, and a surrogate that is linear.

For affinities theta (maximised), p = argmax F_theta and the Hamming loss L(p) = 2 * (number of wrong rows), the
estimator (Vlastelica et al. 2020; Niepert, Minervini and Franceschi 2021 with one sample and the factor 1 / lambda) is
    dL/dtheta = (1 / lambda) * [ phi(p) - phi(p_target) ],    p_target = argmax of F at V - lambda * dL/dX,
with phi the indicators of matched vertices and of matched edges. dL/dX = 1 - 2 X_true, so V is raised by lambda at true
pairs and lowered by lambda elsewhere. As published the estimator is not linear in the gradient that comes in, so loss
scaling and accumulation destroy it; here lambda is fixed beforehand and the result is the gradient of a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medalign_core.solvers.graph_matching import MatchingResult
from medalign_core.solvers.matching_problem import MatchingProblem


@dataclass(frozen=True, kw_only=True)
class Target:
    """The better matchings that the estimator pulls towards.

    Attributes:
        matching: (G, N).
        solved: (G,), True where a second solve was needed, False where the truth is proven to be its answer.
    """

    matching: Int[np.ndarray, "G N"]
    solved: Bool[np.ndarray, " G"]


def target_matching(
    solver: Callable[[MatchingProblem], MatchingResult],
    problem: MatchingProblem,
    *,
    strength: float,
    edge_weight: float,
    always_solve: bool = False,
) -> Target:
    """Return p_target for the Hamming loss to the identity.

    Where lambda is so large that the identity is *provably* the unique optimum of the shifted problem (`is_saturated`)
    the second solve is skipped; at the published lambda = 80 that is always, and the estimator is a structured
    perceptron. Elsewhere the shifted problem is solved.

    Args:
        solver: solves the shifted problem; called with the members that need it only.
        problem: the (perturbed) problem whose solution the loss was computed from. The same perturbation is kept.
        strength: lambda > 0.
        edge_weight: the solver's weight of the second-order term, needed by the proof.
        always_solve: solve all the same (the test oracle of the short cut).

    Raises:
        ValueError: strength <= 0.
    """
    if not strength > 0:
        raise ValueError(f"strength (lambda) must be > 0, got {strength}.")
    graphs, size = problem.vertex_affinity.shape[:2]
    matching = np.tile(np.arange(size), (graphs, 1))
    needs = (
        np.ones(graphs, bool) if always_solve else ~is_saturated(problem, strength=strength, edge_weight=edge_weight)
    )
    if needs.any():
        hamming_gradient = 1.0 - 2.0 * np.eye(size)
        shifted = problem.vertex_affinity[needs] - strength * hamming_gradient
        matching[needs] = solver(replace(_members(problem, needs), vertex_affinity=shifted)).matching
    return Target(matching=matching, solved=needs)


def is_saturated(problem: MatchingProblem, *, strength: float, edge_weight: float) -> Bool[np.ndarray, " G"]:
    """Return where the identity is certainly the unique optimum of the problem shifted by `strength`.

    A permutation with w wrong rows loses 2 * lambda * w by the shift. What it can gain over the identity is at most,
    for each wrong node, its best vertex affinity less its own, and for each edge at it the best edge affinity (or 0)
    less what the edge has under the identity. So 2 * lambda > max over nodes of that sum is enough. Not finite: False.
    """
    rows = np.arange(len(problem.vertex_affinity))[:, None]
    vertex = problem.vertex_affinity
    edge = edge_weight * problem.edge_affinity
    own_edge = _identity_edges(problem)
    padded = np.pad(edge, ((0, 0), (0, 0), (0, 1)))
    kept = padded[rows, np.arange(edge.shape[1]), own_edge]  # (G, E)
    with np.errstate(invalid="ignore"):
        gain = padded.max(axis=2) - kept  # the padding's 0: an edge may also end on a pair that is no edge of t
        bound = vertex.max(axis=2) - np.diagonal(vertex, axis1=1, axis2=2)
        bound = bound.copy()
        np.add.at(bound, (rows, problem.edges_s[..., 0]), gain)
        np.add.at(bound, (rows, problem.edges_s[..., 1]), gain)
        if problem.valid is not None:
            bound = np.where(problem.valid, bound, 0.0)
        return (2.0 * strength > bound.max(axis=1)) & np.isfinite(bound).all(axis=1)


def matching_score(
    vertex_affinity: Float[Tensor, "G N N"],
    edge_affinity: Float[Tensor, "G S T"],
    matched_edges: Int[Tensor, "G S"],
    matching: Int[Tensor, "G N"],
    *,
    edge_weight: float,
) -> Float[Tensor, " G"]:
    """Return F at the matchings (see MatchingProblem), linear in, and differentiable by, both affinities.

    Args:
        vertex_affinity: V.
        edge_affinity: Q, already 0 at edges that do not count.
        matched_edges: for each edge of s the edge of t it lands on, E_t where it lands on none (see `match_edges`).
        matching: the permutations.
        edge_weight: w.
    """
    first = vertex_affinity.gather(2, matching[..., None]).sum(dim=(1, 2))
    lands = matched_edges < edge_affinity.shape[2]
    index = torch.where(lands, matched_edges, 0)
    second = edge_affinity.gather(2, index[..., None])[..., 0] * lands
    return first + edge_weight * second.sum(dim=1)


def match_edges(
    matching: Int[Tensor, "G N"], edges_s: Int[Tensor, "G S 2"], edges_t: Int[Tensor, "G T 2"]
) -> Int[Tensor, "G S"]:
    """Return for each edge (i, j) of s the number of the edge (p(i), p(j)) of t, or E_t where t has no such edge."""
    graphs, size = matching.shape
    count = edges_t.shape[1]
    table = torch.full((graphs, size * size), count, dtype=torch.long, device=matching.device)
    number = torch.arange(count, device=matching.device).expand(graphs, count)
    table = table.scatter(1, edges_t[..., 0] * size + edges_t[..., 1], number)
    ends = matching[:, :, None].expand(-1, -1, 2).gather(1, edges_s)  # (G, S, 2)
    return table.gather(1, ends[..., 0] * size + ends[..., 1])


def surrogate_loss(
    vertex_affinity: Float[Tensor, "G N N"],
    edge_affinity: Float[Tensor, "G S T"],
    *,
    edges: tuple[Int[Tensor, "G S 2"], Int[Tensor, "G T 2"]],
    matching: Int[Tensor, "G N"],
    target: Int[Tensor, "G N"],
    strength: float,
    edge_weight: float,
) -> Float[Tensor, " G"]:
    """Return (1 / lambda) * [F(matching) - F(target)] per problem; its gradient is the estimator above.

    Both matchings are constants, so the value is linear in the affinities, and the gradient is linear in whatever the
    caller multiplies it by: loss scales, accumulation and means over problems are safe. It is exactly 0 where the two
    matchings agree. Without noise it is >= 0 up to the solver's error; the Hamming loss itself is not its value.
    """
    scores = [
        matching_score(vertex_affinity, edge_affinity, match_edges(p, *edges), p, edge_weight=edge_weight)
        for p in (matching, target)
    ]
    return (scores[0] - scores[1]) / strength


def _members(problem: MatchingProblem, kept: np.ndarray) -> MatchingProblem:
    return MatchingProblem(
        vertex_affinity=problem.vertex_affinity[kept],
        edge_affinity=problem.edge_affinity[kept],
        edges_s=problem.edges_s[kept],
        edges_t=problem.edges_t[kept],
        valid=None if problem.valid is None else problem.valid[kept],
        order=None if problem.order is None else problem.order[kept],
    )


def _identity_edges(problem: MatchingProblem) -> np.ndarray:
    """Return (G, E_s): the edge of t between the same two nodes, E_t where there is none."""
    size, count = problem.size, problem.edges_t.shape[1]
    rows = np.arange(len(problem.edges_t))[:, None]
    table = np.full((len(rows), size, size), count)
    table[rows, problem.edges_t[..., 0], problem.edges_t[..., 1]] = np.arange(count)
    return table[rows, problem.edges_s[..., 0], problem.edges_s[..., 1]]
