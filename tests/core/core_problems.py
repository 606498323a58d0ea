"""Toy problems with known answers, and brute-force references, shared by the tests of the core."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.settings import ResNet
from medalign_core.solvers.matching_problem import MatchingProblem
from medalign_core.types import DrawKey, ImageBatch


def knn_reference(nodes: np.ndarray, neighbours: int) -> np.ndarray:
    """Edges (i, j) of one graph by a plain double loop: nearest first, equal distances by j."""
    edges = []
    for i in range(len(nodes)):
        others = sorted((float(np.sum((nodes[i] - nodes[j]) ** 2)), j) for j in range(len(nodes)) if j != i)
        edges += [(i, j) for _, j in others[:neighbours]]
    return np.array(edges)


def cosine_reference(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    unit_s, unit_t = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (s, t))
    return unit_s @ unit_t.T


def noisy_views(
    graphs: int,
    *,
    nodes: int = 16,
    neighbours: int = 5,
    sigma: float = 0.5,
    gumbel: float = 0.0,
    size: int = 128,
    seed: int = 0,
) -> MatchingProblem:
    """Problems whose truth is the identity: z and z + sigma * noise, cosine affinities, Gumbel noise on both tables."""
    draws = np.random.default_rng(seed)
    parts = []
    for _ in range(graphs):
        s = draws.normal(size=(nodes, size))
        t = s + sigma * draws.normal(size=s.shape)
        edges = [knn_reference(x, neighbours) for x in (s, t)]
        vertex = cosine_reference(s, t)
        edge = cosine_reference(*(x[e[:, 0]] - x[e[:, 1]] for x, e in zip((s, t), edges, strict=True)))
        parts.append((vertex, edge, *edges))
    vertex, edge, edges_s, edges_t = (np.stack(part) for part in zip(*parts, strict=True))
    return MatchingProblem(
        vertex_affinity=vertex + gumbel * draws.gumbel(size=vertex.shape),
        edge_affinity=edge + gumbel * draws.gumbel(size=edge.shape),
        edges_s=edges_s,
        edges_t=edges_t,
    )


def objective_reference(problem: MatchingProblem, g: int, matching: np.ndarray, edge_weight: float = 1.0) -> float:
    """F(p) of problem g straight from its definition, by a loop over all pairs of edges."""
    total = sum(problem.vertex_affinity[g, i, a] for i, a in enumerate(matching))
    for e, (i, j) in enumerate(problem.edges_s[g]):
        for f, (a, b) in enumerate(problem.edges_t[g]):
            if matching[i] == a and matching[j] == b:
                total += edge_weight * problem.edge_affinity[g, e, f]
    return float(total)


def brute_force(problem: MatchingProblem, g: int, edge_weight: float = 1.0) -> tuple[np.ndarray, float]:
    """The best of all permutations of problem g and its F, from the dense quadratic form."""
    size = problem.size
    dense = dense_affinity(problem, g, edge_weight)
    permutations = np.array(list(itertools.permutations(range(size))))
    index = np.arange(size) * size + permutations  # (n!, n)
    values = np.zeros(len(permutations))
    for i, j in itertools.product(range(size), repeat=2):
        values += dense[index[:, i], index[:, j]]
    return permutations[values.argmax()], float(values.max())


def partial_matchings(size: int) -> np.ndarray:
    """All (P, size) injections of some of `size` nodes into as many, with -1 at the others."""
    every = {
        p
        for p in itertools.product(range(-1, size), repeat=size)
        if len({a for a in p if a >= 0}) == sum(a >= 0 for a in p)
    }
    return np.array(sorted(every))


def partial_brute_force(problem: MatchingProblem, g: int, edge_weight: float = 1.0) -> tuple[np.ndarray, float]:
    """The best of all partial matchings of problem g and its F, from the dense quadratic form."""
    size = problem.size
    dense = np.pad(dense_affinity(problem, g, edge_weight), ((0, 1), (0, 1)))  # the last pair pays nothing
    matchings = partial_matchings(size)
    index = np.where(matchings >= 0, np.arange(size) * size + matchings, size * size)
    values = sum(dense[index[:, i], index[:, j]] for i, j in itertools.product(range(size), repeat=2))
    return matchings[np.argmax(values)], float(np.max(values))


def dense_affinity(problem: MatchingProblem, g: int, edge_weight: float = 1.0) -> np.ndarray:
    """K of Lawler's form x^T K x, (N^2, N^2), with x the permutation matrix row by row."""
    size = problem.size
    dense = np.zeros((size * size, size * size))
    for e, (i, j) in enumerate(problem.edges_s[g]):
        for f, (a, b) in enumerate(problem.edges_t[g]):
            dense[i * size + a, j * size + b] += edge_weight * problem.edge_affinity[g, e, f]
    dense[np.diag_indices(size * size)] += problem.vertex_affinity[g].ravel()
    return dense


def small_encoder(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ResNet(layer_type="basic", embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1)).build()


def image_batch(rows: int, *, size: int = 32, noise: int = 20, seed: int = 0, key: DrawKey | None = None) -> ImageBatch:
    """Random images and, as their two views, the image plus pixel noise, cropped somewhere, half mirrored."""
    draws = torch.Generator().manual_seed(seed)
    source = torch.randint(30, 226, (rows, 1, 3, size, size), generator=draws)
    shift = torch.randint(-noise, noise + 1, (rows, 2, 3, size, size), generator=draws)
    corner = 0.3 * torch.rand(rows, 2, 2, generator=draws)
    extent = 0.4 + 0.3 * torch.rand(rows, 2, 2, generator=draws)
    return ImageBatch(
        images=(source + shift).clamp(0, 255).to(torch.uint8),
        boxes=torch.cat([corner, extent], dim=-1),
        flipped=torch.rand(rows, 2, generator=draws) < 0.5,
        valid=torch.ones(rows, dtype=torch.bool),
        labels=torch.full((rows,), -1, dtype=torch.int64),
        ids=torch.arange(rows),
        key=DrawKey(0, 0, 0) if key is None else key,
    )
