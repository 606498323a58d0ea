"""The second-order matching problem, in batches: two graphs each, their affinities, and the objective's calculus."""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True, kw_only=True)
class Calculus:
    """Objective, gradient and swap gains of G problems at arbitrary permutations; tables made once.

    Everything below takes P pairs (problem number, permutation), so that several starts of one problem, and only
    those still running, are evaluated in one go.
    """

    unary: Float[np.ndarray, "G N N"]
    pair: Float[np.ndarray, "G S T"] = field(repr=False)  # edge affinities times w; a last row and column of zeros
    source_s: Int[np.ndarray, "G E"]
    target_s: Int[np.ndarray, "G E"]
    lookup_s: Int[np.ndarray, "G N N"]  # edge number at [i, j]; the number of the zero row where there is no edge
    lookup_t: Int[np.ndarray, "G N N"]
    lookup_into: Int[np.ndarray, "G N N"]  # lookup_t, transposed in memory: edges into a node lie side by side
    from_source: Float[np.ndarray, "G N E"]  # incidence of s: 1 where edge e leaves node i
    from_target: Float[np.ndarray, "G N E"]  # 1 where edge e enters node i
    scale: Float[np.ndarray, " G"]  # the largest affinities: what a difference must be compared with to be one

    @classmethod
    def of(cls, problem: MatchingProblem, *, edge_weight: float, second_order: bool) -> Calculus:
        """Build the tables. Holes: their pairs (i, i) cost nothing, all others more than any solution can gain."""
        size = problem.size
        unary = problem.vertex_affinity.astype(np.float64)
        quadratic = edge_weight * problem.dense_edge_affinity().astype(np.float64)
        if not second_order:
            quadratic = np.zeros_like(quadratic)
        if problem.valid is not None:
            ends_s, ends_t = (_both_valid(e, problem.valid) for e in (problem.edges_s, problem.edges_t))
            quadratic = np.where(ends_s[:, :, None] & ends_t[:, None, :], quadratic, 0.0)
            unary = np.where(problem.valid[:, :, None] & problem.valid[:, None, :], unary, 0.0)
        scale = np.abs(unary).max(axis=(1, 2), initial=0.0) + np.abs(quadratic).max(axis=(1, 2), initial=0.0)
        if problem.valid is not None:
            unary = _close_holes(unary, quadratic, problem.valid)
        lookup_t = _lookup(problem.edges_t, size)
        incidence = (problem.edges_s[:, None, :, :] == np.arange(size)[None, :, None, None]).astype(np.float64)
        return cls(
            unary=unary,
            pair=np.pad(quadratic, ((0, 0), (0, 1), (0, 1))),
            source_s=problem.edges_s[..., 0],
            target_s=problem.edges_s[..., 1],
            lookup_s=_lookup(problem.edges_s, size),
            lookup_t=lookup_t,
            lookup_into=np.ascontiguousarray(lookup_t.transpose(0, 2, 1)),
            from_source=np.ascontiguousarray(incidence[..., 0]),
            from_target=np.ascontiguousarray(incidence[..., 1]),
            scale=scale,
        )

    def linear(self, at: Int[np.ndarray, " P"], matching: Int[np.ndarray, "P N"]) -> Float[np.ndarray, " P"]:
        """Return the first-order part of F, sum_i V[i, p(i)]."""
        return self.unary[at[:, None], np.arange(matching.shape[1]), matching].sum(axis=1)

    def score(self, at: Int[np.ndarray, " P"], matching: Int[np.ndarray, "P N"]) -> Float[np.ndarray, " P"]:
        """Return F at each permutation."""
        edge_t = self.lookup_t[at[:, None, None], matching[:, :, None], matching[:, None, :]]  # (P, N, N)
        second = self.pair[at[:, None, None], self.lookup_s[at], edge_t]
        return self.linear(at, matching) + second.sum(axis=(1, 2))

    def gradient(self, at: Int[np.ndarray, " P"], matching: Int[np.ndarray, "P N"]) -> Float[np.ndarray, "P N N"]:
        """Return dF/dX at the permutation matrices X. Both ends of an edge differentiate: <gradient, X> = V + 2 Q."""
        _, size = matching.shape
        _, rows, columns = self.pair.shape
        ahead = np.take_along_axis(matching, self.target_s[at], axis=1)  # (P, E): whom the edge's head is matched to
        behind = np.take_along_axis(matching, self.source_s[at], axis=1)
        into = self.lookup_into.reshape(-1, size).take(at[:, None] * size + ahead, axis=0)  # (P, E, N): from any a
        out_of = self.lookup_t.reshape(-1, size).take(at[:, None] * size + behind, axis=0)
        # flat indices: the search spends its time here, and take() is several times faster than three index arrays
        row = ((at[:, None] * rows + np.arange(rows - 1)) * columns)[..., None]
        flat = self.pair.reshape(-1)
        gain = self.from_source[at] @ flat.take(row + into)
        gain += self.from_target[at] @ flat.take(row + out_of)
        gain += self.unary[at]
        return gain

    def swap_gains(self, at: Int[np.ndarray, " P"], matching: Int[np.ndarray, "P N"]) -> Float[np.ndarray, "P N N"]:
        """Return by how much F grows when nodes i and j exchange their partners, for all i, j; 0 on the diagonal.

        With D the change of X, F(X + D) - F(X) = <gradient, D> + Q(D, D), and Q(D, D) sees only edges between the two.
        """
        partner = matching[:, None, :].repeat(matching.shape[1], axis=1)  # (P, N, N): p(j) at [i, j]
        moved = np.take_along_axis(self.gradient(at, matching), partner, axis=2)  # gradient[i, p(j)]
        kept = np.diagonal(moved, axis1=1, axis2=2)
        edge_t = self.lookup_t[at[:, None, None], matching[:, :, None], matching[:, None, :]]
        edge_s, where = self.lookup_s[at], at[:, None, None]
        between = self.pair[where, edge_s, edge_t] + self.pair[where, edge_s, edge_t.transpose(0, 2, 1)]
        gains = moved - kept[:, :, None] + between
        gains = gains + gains.transpose(0, 2, 1)
        diagonal = np.arange(matching.shape[1])
        gains[:, diagonal, diagonal] = 0.0
        return gains


def _check_edges(edges: np.ndarray, size: int, name: str) -> None:
    if edges.size and (edges.min() < 0 or edges.max() >= size):
        raise ValueError(f"{name} must name nodes in [0, {size - 1}].")
    if (edges[..., 0] == edges[..., 1]).any():
        raise ValueError(f"{name} must not hold loops (i, i).")
    index = np.sort(edges[..., 0] * size + edges[..., 1], axis=1)
    if (index[:, 1:] == index[:, :-1]).any():
        raise ValueError(f"{name} must not hold an edge twice.")


def _both_valid(edges: np.ndarray, valid: np.ndarray) -> np.ndarray:
    rows = np.arange(len(edges))[:, None]
    return valid[rows, edges[..., 0]] & valid[rows, edges[..., 1]]


def _close_holes(unary: np.ndarray, quadratic: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return V with hole pairs (i, i) at 0 and every other pair of a hole below what all real terms can outweigh."""
    pairs = valid[:, :, None] & valid[:, None, :]
    forbidden = -4.0 * (np.abs(unary).sum(axis=(1, 2)) + np.abs(quadratic).sum(axis=(1, 2)) + 1.0)
    same = np.eye(unary.shape[1], dtype=bool)
    return np.where(pairs | same, unary, forbidden[:, None, None])


def _lookup(edges: np.ndarray, size: int) -> np.ndarray:
    graphs, count, _ = edges.shape
    table = np.full((graphs, size, size), count, dtype=np.int64)
    table[np.arange(graphs)[:, None], edges[..., 0], edges[..., 1]] = np.arange(count)
    return table
