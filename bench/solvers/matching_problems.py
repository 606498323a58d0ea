"""Matching problems with a planted answer: two noisy views of the same points, the second one shuffled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from medalign_core.solvers.matching_problem import MatchingProblem

FEATURES = 64


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One problem in both forms, and the permutation that made it.

    Attributes:
        dense: with the (nk, nk) table of edge affinities.
        factors: with the edges' features instead.
        truth: (N,), the node of view t that is node i of view s.
    """

    dense: MatchingProblem
    factors: MatchingProblem
    truth: ndarray


def planted(size: int, *, latent: int, noise: float, seed: int, neighbours: int = 5) -> Planted:
    """Draw points of `latent` dimensions, seen twice in 64 dimensions with noise of the given deviation.

    Vertex affinity: cosine. Edges: each view's k nearest neighbours. Edge affinity: cosine of the difference vectors.
    """
    draws = np.random.default_rng([size, latent, seed])
    seen = draws.standard_normal((size, latent)) @ draws.standard_normal((latent, FEATURES)) / np.sqrt(latent)
    truth = draws.permutation(size)
    view_s, view_t = (seen + noise * draws.standard_normal(seen.shape) for _ in range(2))
    view_t = view_t[np.argsort(truth)]  # node truth[i] of t is node i of s
    edges_s, edges_t = _nearest(view_s, neighbours), _nearest(view_t, neighbours)
    ahead, behind = _directions(view_s, edges_s), _directions(view_t, edges_t)
    vertex = (_unit(view_s) @ _unit(view_t).T)[None]
    shared = {"vertex_affinity": vertex, "edges_s": edges_s[None], "edges_t": edges_t[None]}
    return Planted(
        dense=MatchingProblem(**shared, edge_affinity=(ahead @ behind.T)[None]),
        factors=MatchingProblem(**shared, edge_features_s=ahead[None], edge_features_t=behind[None]),
        truth=truth,
    )


def _nearest(points: ndarray, neighbours: int) -> ndarray:
    distance = ((points[:, None] - points[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    heads = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
    return np.stack([np.repeat(np.arange(len(points)), neighbours), heads.reshape(-1)], axis=1)


def _directions(points: ndarray, edges: ndarray) -> ndarray:
    return _unit(points[edges[:, 0]] - points[edges[:, 1]])


def _unit(rows: ndarray) -> ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
