"""The sparse objective of one problem in NumPy: values, gradients, gains of exchanges and of fused components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.matching_problem import MatchingProblem

SMALL = 1 << 21  # edge pairs up to which a factor form is multiplied out once: 16 MB


@dataclass(frozen=True, kw_only=True)
class Objective:
    """F of one problem over its valid nodes, numbered anew; a matching p is an integer array, -1 at unmatched nodes.

    Attributes:
        unary: V, (n, n).
        edges_s: (E, 2), edges of s between valid nodes, and their numbers in the problem.
        number_s: (E,).
        into: (n, k), the edges of t into each node, padded with -1; out_of: likewise those that leave it.
        edges_t: (T, 2), all edges of t in the new numbers.
        lookup: (n, n), the number of edge (a, b) of t, -1 where there is none.
        dense: Q as it came, or multiplied out if small; else None, and features_s, features_t and offset make it.
        weight: w.
    """

    unary: Float[np.ndarray, "n n"]
    edges_s: Int[np.ndarray, "E 2"]
    number_s: Int[np.ndarray, " E"]
    into: Int[np.ndarray, "n a"]
    out_of: Int[np.ndarray, "n b"]
    edges_t: Int[np.ndarray, "T 2"]
    lookup: Int[np.ndarray, "n n"]
    dense: Float[np.ndarray, "S T"] | None
    features_s: Float[np.ndarray, "S D"] | None
    features_t: Float[np.ndarray, "T D"] | None
    offset: float
    weight: float

    @classmethod
    def of(
        cls, problem: MatchingProblem, g: int, nodes: tuple[np.ndarray, np.ndarray], *, edge_weight: float
    ) -> Objective:
        """Return problem g over the given nodes of s and t, in these orders."""
        (nodes_s, nodes_t), size = nodes, problem.size
        edges_s, edges_t = (
            _renumber(e[g], n, size) for e, n in ((problem.edges_s, nodes_s), (problem.edges_t, nodes_t))
        )
        kept_s, kept_t = (np.flatnonzero((e >= 0).all(axis=1)) for e in (edges_s, edges_t))
        lookup = np.full((len(nodes_t), len(nodes_t)), -1)
        lookup[edges_t[kept_t, 0], edges_t[kept_t, 1]] = kept_t
        dense, x, y = None if problem.edge_affinity is None else problem.edge_affinity[g], None, None
        if dense is None:
            assert problem.edge_features_s is not None
            assert problem.edge_features_t is not None
            x, y = (f[g].astype(np.float64) for f in (problem.edge_features_s, problem.edge_features_t))
            if len(x) * len(y) <= SMALL:
                dense = x @ y.T + problem.edge_offset
        return cls(
            unary=problem.vertex_affinity[g][np.ix_(nodes_s, nodes_t)].astype(np.float64),
            edges_s=edges_s[kept_s],
            number_s=kept_s,
            into=_edges_by_node(edges_t[kept_t, 1], kept_t, len(nodes_t)),
            out_of=_edges_by_node(edges_t[kept_t, 0], kept_t, len(nodes_t)),
            edges_t=edges_t,
            lookup=lookup,
            dense=dense,
            features_s=x,
            features_t=y,
            offset=problem.edge_offset,
            weight=edge_weight,
        )

    def pairs(self, edge_s: Int[np.ndarray, "*P"], edge_t: Int[np.ndarray, "*P"]) -> Float[np.ndarray, "*P"]:
        """Return w Q[e, f]."""
        if self.dense is not None:
            return self.weight * self.dense.ravel().take(edge_s * self.dense.shape[1] + edge_t).astype(np.float64)
        assert self.features_s is not None
        assert self.features_t is not None
        products = np.einsum("...d,...d->...", self.features_s[edge_s], self.features_t[edge_t])
        return self.weight * (products + self.offset)

    def linear(self, p: Int[np.ndarray, " n"]) -> float:
        """Return the first-order part of F(p)."""
        nodes = np.flatnonzero(p >= 0)
        return float(self.unary[nodes, p[nodes]].sum())

    def quadratic(self, p: Int[np.ndarray, " n"]) -> float:
        """Return the second-order part of F(p)."""
        return float(self.edge_values(p[self.edges_s[:, 0]], p[self.edges_s[:, 1]]).sum())

    def value(self, p: Int[np.ndarray, " n"]) -> float:
        """Return F(p)."""
        return self.linear(p) + self.quadratic(p)

    def edge_values(self, tails: Int[np.ndarray, " E"], heads: Int[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
        """Return what each edge of s pays when its ends are matched to these nodes of t."""
        edge_t = np.where((tails >= 0) & (heads >= 0), self.lookup[tails, heads], -1)
        values = np.zeros(len(edge_t))
        lands = np.flatnonzero(edge_t >= 0)
        values[lands] = self.pairs(self.number_s[lands], edge_t[lands])
        return values

    def gradient(self, p: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
        """Return dF/dX at a matching: V and, for either end of an edge, what the other end makes it worth."""
        n = len(p)
        tail, head = self.edges_s[:, 0], self.edges_s[:, 1]
        index, weight = [], []
        for end, other, lists, side in ((tail, head, self.into, 0), (head, tail, self.out_of, 1)):
            edge_t = np.where(p[other] >= 0, 0, -1)[:, None] | lists[p[other]]  # (E, k), negative where there is none
            e, k = np.nonzero(edge_t >= 0)
            f = edge_t[e, k]
            index.append(end[e] * n + self.edges_t[f, side])
            weight.append(self.pairs(self.number_s[e], f))
        second = np.bincount(np.concatenate(index), np.concatenate(weight), n * n)
        return self.unary + second.reshape(n, n)

    def uniform_gradient(self, share: float) -> Float[np.ndarray, "n n"]:
        """Return dF/dX at X = share everywhere, from sums over the edges of each node."""
        n = len(self.unary)
        second = np.zeros((n, n))
        kept = np.flatnonzero((self.edges_t >= 0).all(axis=1))
        for side in (0, 1):
            at_s, at_t = self.edges_s[:, side], self.edges_t[kept, side]
            incidence_s = np.zeros((n, len(at_s)))
            incidence_s[at_s, np.arange(len(at_s))] = 1.0
            incidence_t = np.zeros((len(kept), n))
            incidence_t[np.arange(len(kept)), at_t] = 1.0
            if self.dense is not None:
                second += incidence_s @ self.dense[np.ix_(self.number_s, kept)] @ incidence_t
            else:
                assert self.features_s is not None
                assert self.features_t is not None
                sum_s, sum_t = incidence_s @ self.features_s[self.number_s], incidence_t.T @ self.features_t[kept]
                degrees = np.outer(incidence_s.sum(axis=1), incidence_t.sum(axis=0))
                second += sum_s @ sum_t.T + self.offset * degrees
        return self.unary + share * self.weight * second

    def between(self, p: Int[np.ndarray, " n"]) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
        """Return what the edges between i and j pay at [i, j], as matched and with the partners exchanged."""
        n = len(p)
        tail, head = self.edges_s[:, 0], self.edges_s[:, 1]
        tables = []
        for values in (self.edge_values(p[tail], p[head]), self.edge_values(p[head], p[tail])):
            table = np.bincount(tail * n + head, values, n * n).reshape(n, n)
            tables.append(table + table.T)
        return tables[0], tables[1]


def weigh(problem: MatchingProblem, g: int, weight: float) -> tuple[float, float]:
    """Return a bound on N times any sum of the affinities of problem g, and the size of its largest."""
    with np.errstate(over="ignore", invalid="ignore"):
        vertex, pair = _largest(problem.vertex_affinity[g]), 0.0
        pairs = float(problem.edges_s.shape[1]) * problem.edges_t.shape[1]
        if problem.edge_affinity is not None:
            pair = _largest(problem.edge_affinity[g])
        else:
            assert problem.edge_features_s is not None
            assert problem.edge_features_t is not None
            x, y = problem.edge_features_s[g], problem.edge_features_t[g]
            pair = _largest(x) * _largest(y) * x.shape[1] + abs(problem.edge_offset)
        total = float(problem.size) ** 2 * vertex + weight * pairs * pair
        return total * problem.size, vertex + weight * pair


def _largest(table: np.ndarray) -> float:
    if not table.size:
        return 0.0
    return max(abs(float(table.max())), abs(float(table.min())))  # both are nan if anything is


def _renumber(edges: np.ndarray, nodes: np.ndarray, size: int) -> np.ndarray:
    place = np.full(size, -1)
    place[nodes] = np.arange(len(nodes))
    return place[edges]


def _edges_by_node(ends: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """Return (count, largest degree) edge numbers by node, -1 where there are no more."""
    order = np.argsort(ends, kind="stable")
    degree = np.bincount(ends, minlength=count)
    table = np.full((count, max(degree.max(initial=0), 1)), -1)
    within = np.arange(len(ends)) - np.repeat(np.cumsum(degree) - degree, degree)
    table[ends[order], within] = numbers[order]
    return table
