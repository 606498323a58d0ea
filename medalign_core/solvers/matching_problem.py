"""The second-order matching problem, in batches: two graphs each, their affinities, and the objective's calculus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True)
class MatchingProblem:
    """G problems of one size: match the N nodes of graph s to the N nodes of graph t.

    Maximise over permutations p
        F(p) = sum_i V[i, p(i)] + w * sum over edges e = (i, j) of s, f = (a, b) of t, p(i) = a, p(j) = b, of Q[e, f],
    the negative of what LVM-Med's GM(c^v, c^e) minimises (there w = 1; here w belongs to the solver).

    The matching is a permutation, or in the solver's partial mode an injection of some of the nodes: who stays
    unmatched, p(i) = -1, scores nothing.

    Attributes:
        vertex_affinity: V, (G, N, N). May hold nan or inf: such a problem is solved without what is not finite.
        edge_affinity: Q, (G, E_s, E_t); or None, and Q comes in factor form from the three below.
        edges_s: (G, E_s, 2), directed edges (i, j), i != j, none twice within a graph.
        edges_t: (G, E_t, 2), likewise.
        edge_features_s: x, (G, E_s, D): Q[e, f] = <x_e, y_f> + edge_offset, evaluated where it is needed.
        edge_features_t: y, (G, E_t, D).
        edge_offset: the constant of the factor form, e.g. the threshold below which a partial matching pays no edge.
        valid: (G, N), False for a hole: it is matched to itself and counts nothing. Default: all valid.
        order: (G, N), a permutation: the order in which the solver sees the nodes of t. It changes no objective, only
            which of several equal optima is found; the identity must not be it where a loss compares with the
            identity (a collapsed encoder, whose affinities all tie, would look perfect). Default: as they come.

    Raises:
        ValueError: shapes that do not fit, an edge outside the graph, a loop, an edge given twice.
    """

    vertex_affinity: Float[np.ndarray, "G N N"]
    edges_s: Int[np.ndarray, "G S 2"]
    edges_t: Int[np.ndarray, "G T 2"]
    edge_affinity: Float[np.ndarray, "G S T"] | None = None
    edge_features_s: Float[np.ndarray, "G S D"] | None = None
    edge_features_t: Float[np.ndarray, "G T D"] | None = None
    edge_offset: float = 0.0
    valid: Bool[np.ndarray, "G N"] | None = None
    order: Int[np.ndarray, "G N"] | None = None

    def __post_init__(self) -> None:
        graphs, size = self.vertex_affinity.shape[:2]
        if self.vertex_affinity.shape != (graphs, size, size):
            raise ValueError(f"vertex_affinity must be (G, N, N), got {self.vertex_affinity.shape}.")
        self._check_affinity()
        _check_edges(self.edges_s, size, "edges_s")
        _check_edges(self.edges_t, size, "edges_t")
        if self.order is not None and not (np.sort(self.order, axis=1) == np.arange(size)).all():
            raise ValueError("order must hold a permutation of the nodes in each row.")

    @property
    def size(self) -> int:
        """N, the number of nodes of each graph."""
        return self.vertex_affinity.shape[1]

    def dense_edge_affinity(self) -> Float[np.ndarray, "G S T"]:
        """Return Q as one array; in factor form this builds it, E_s * E_t numbers a problem."""
        if self.edge_affinity is not None:
            return self.edge_affinity
        assert self.edge_features_s is not None
        assert self.edge_features_t is not None
        return self.edge_features_s @ self.edge_features_t.transpose(0, 2, 1) + self.edge_offset

    def _check_affinity(self) -> None:
        graphs, (count_s, count_t) = len(self.vertex_affinity), (self.edges_s.shape[1], self.edges_t.shape[1])
        s, t = self.edge_features_s, self.edge_features_t
        if (self.edge_affinity is None) != (s is not None and t is not None) or (s is None) != (t is None):
            raise ValueError("give either edge_affinity or both edge_features_s and edge_features_t.")
        if self.edge_affinity is not None:
            expected = (graphs, count_s, count_t)
            if self.edge_affinity.shape != expected:
                raise ValueError(
                    f"edge_affinity must be {expected} for these edge lists, got {self.edge_affinity.shape}."
                )
            return
        assert s is not None
        assert t is not None
        if s.shape != (graphs, count_s, s.shape[-1]) or t.shape != (graphs, count_t, s.shape[-1]):
            raise ValueError(
                f"edge features must be ({graphs}, {count_s}, D) and ({graphs}, {count_t}, D), "
                f"got {s.shape} and {t.shape}."
            )


def score(
    problem: MatchingProblem, matching: Int[np.ndarray, "G N"], *, edge_weight: float = 1.0
) -> Float[np.ndarray, " G"]:
    """Return F(p) of MatchingProblem for one matching per problem, -1 where unmatched; holes count nothing."""
    rows = np.arange(len(matching))[:, None]
    pays = matching >= 0 if problem.valid is None else (matching >= 0) & problem.valid
    first = np.take_along_axis(problem.vertex_affinity, np.maximum(matching, 0)[:, :, None], axis=2)[:, :, 0]
    edge_t = matched_edges(problem, matching)
    ends = pays[rows, problem.edges_s[..., 0]] & pays[rows, problem.edges_s[..., 1]]
    e, g = np.broadcast_to(np.arange(edge_t.shape[1]), edge_t.shape), np.broadcast_to(rows, edge_t.shape)
    lands = ends & (edge_t >= 0)
    second = np.zeros(edge_t.shape)
    second[lands] = pair_affinity(problem, g[lands], e[lands], edge_t[lands])
    return np.where(pays, first, 0.0).sum(axis=1, dtype=np.float64) + edge_weight * second.sum(axis=1)


def matched_edges(problem: MatchingProblem, matching: Int[np.ndarray, "G N"]) -> Int[np.ndarray, "G S"]:
    """Return for each edge (i, j) of s the number of the edge (p(i), p(j)) of t, -1 where there is none."""
    rows, size = np.arange(len(matching))[:, None], problem.size
    table = np.full((len(matching), size * size), -1)
    table[rows, problem.edges_t[..., 0] * size + problem.edges_t[..., 1]] = np.arange(problem.edges_t.shape[1])
    tail, head = (np.take_along_axis(matching, problem.edges_s[..., side], axis=1) for side in (0, 1))
    return np.where((tail >= 0) & (head >= 0), table[rows, tail * size + head], -1)


def pair_affinity(
    problem: MatchingProblem, graph: Int[np.ndarray, " P"], edge_s: Int[np.ndarray, " P"], edge_t: Int[np.ndarray, " P"]
) -> Float[np.ndarray, " P"]:
    """Return Q[e, f] of P pairs of edges, from the array or from the factors; O(P D), nothing else is built."""
    if problem.edge_affinity is not None:
        return problem.edge_affinity[graph, edge_s, edge_t]
    assert problem.edge_features_s is not None
    assert problem.edge_features_t is not None
    x, y = problem.edge_features_s[graph, edge_s], problem.edge_features_t[graph, edge_t]
    return np.einsum("pd,pd->p", x, y) + problem.edge_offset


def _check_edges(edges: np.ndarray, size: int, name: str) -> None:
    if edges.size and (edges.min() < 0 or edges.max() >= size):
        raise ValueError(f"{name} must name nodes in [0, {size - 1}].")
    if (edges[..., 0] == edges[..., 1]).any():
        raise ValueError(f"{name} must not hold loops (i, i).")
    index = np.sort(edges[..., 0] * size + edges[..., 1], axis=1)
    if (index[:, 1:] == index[:, :-1]).any():
        raise ValueError(f"{name} must not hold an edge twice.")
