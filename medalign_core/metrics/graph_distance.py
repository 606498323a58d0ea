"""The exact distance between small structured graphs, and the shortest path from one to another.

An idealised form of the structured graph alignment that LoGra-Med trains (its theory: the optimal cost is a metric on
structured graphs modulo isomorphism, and geodesic): costs in place of affinities, and a search that is exhaustive.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

MOST_MATCHINGS = 20_000  # 6 x 6 nodes have 13,327


@dataclass(frozen=True, kw_only=True)
class StructuredGraph:
    """Nodes with features and masses, and weighted directed edges.

    Attributes:
        nodes: x, (N, D).
        edges: A, (N, N), the weight of the edge (i, j); 0 is no edge.
        mass: m, (N,), > 0, how much of a node is there: 1 for an ordinary one.

    Raises:
        ValueError: shapes that do not fit, a mass that is not > 0, or a number that is not finite.
    """

    nodes: Float[np.ndarray, "N D"]
    edges: Float[np.ndarray, "N N"]
    mass: Float[np.ndarray, " N"]

    def __post_init__(self) -> None:
        count = len(self.nodes)
        if self.edges.shape != (count, count) or self.mass.shape != (count,):
            raise ValueError(
                f"edges and mass must be ({count}, {count}) and ({count},), got {self.edges.shape}, {self.mass.shape}."
            )
        if not all(np.isfinite(part).all() for part in (self.nodes, self.edges, self.mass)) or (self.mass <= 0).any():
            raise ValueError("nodes and edges must be finite, and masses finite and > 0.")


@dataclass(frozen=True, kw_only=True)
class GraphDistance:
    """The distance, and a matching that attains it.

    Attributes:
        distance: d(s, t) >= 0.
        matching: (N,), the node of t for each node of s, -1 where it is left out.
    """

    distance: float
    matching: Int[np.ndarray, " N"]


def graph_distance(
    s: StructuredGraph, t: StructuredGraph, *, deletion: float = 1.0, edge_weight: float = 1.0
) -> GraphDistance:
    """Return d(s, t) = min over partial matchings p of the cost of nodes and of edges, by trying all of them.

    A matched pair of nodes costs |x_i - y_p(i)| + deletion * |m_i - m_p(i)|, a node left out |x_i| + deletion * m_i; a
    pair of nodes (i, j) costs edge_weight * |A_ij - B_p(i)p(j)|, an edge that no edge meets counting as 0. What is
    left out is thus matched to a node of no feature, mass and edges. All terms are metrics and matchings compose, so d
    is a metric on graphs up to isomorphism: >= 0, symmetric, 0 exactly for isomorphic graphs, and d(s, u) <= d(s, t) +
    d(t, u).

    Args:
        s: the one graph,
        t: the other, with features of the same size.
        deletion: what a unit of mass costs, > 0.
        edge_weight: what a unit of edge weight costs, > 0.

    Raises:
        ValueError: costs that are not > 0, features of different size, or more than 20,000 partial matchings.
    """
    if not deletion > 0 or not edge_weight > 0:
        raise ValueError(f"deletion and edge_weight must be > 0, got {deletion} and {edge_weight}.")
    if s.nodes.shape[1] != t.nodes.shape[1]:
        raise ValueError(f"features must have one size, got {s.nodes.shape[1]} and {t.nodes.shape[1]}.")
    matchings = _partial_matchings(len(s.nodes), len(t.nodes))  # (P, N), the last node of the padded t for "left out"
    whole_s, whole_t = (np.column_stack([g.nodes, deletion * g.mass]) for g in (s, t))
    padded, edges = np.pad(whole_t, ((0, 1), (0, 0))), np.pad(t.edges, (0, 1))
    difference = whole_s[:, None] - padded[None]
    table = np.linalg.norm(difference[..., :-1], axis=2) + np.abs(difference[..., -1])  # (N, M + 1)
    alone = np.linalg.norm(padded[:, :-1], axis=1) + padded[:, -1]
    costs = table[np.arange(len(whole_s)), matchings].sum(axis=1) + alone.sum() - alone[matchings].sum(axis=1)
    met = edges[matchings[:, :, None], matchings[:, None, :]]  # (P, N, N)
    costs += edge_weight * (np.abs(s.edges - met).sum(axis=(1, 2)) + np.abs(edges).sum() - np.abs(met).sum(axis=(1, 2)))
    best = int(costs.argmin())
    matching = np.where(matchings[best] < len(t.nodes), matchings[best], -1)
    return GraphDistance(distance=max(float(costs[best]), 0.0), matching=matching)


def interpolate(
    s: StructuredGraph, t: StructuredGraph, matching: Int[np.ndarray, " N"], *, share: float = 0.5
) -> StructuredGraph:
    """Return the graph that lies `share` of the way from s to t along a matching.

    Matched nodes, their masses and their edges move linearly; what is left out of s fades, what is left out of t grows.
    Along an optimal matching d(s, result) = share * d(s, t) and d(result, t) = (1 - share) * d(s, t): the path is the
    shortest, at constant speed. At share 1/2 this is the barycentre of the two.

    Args:
        s: where the path starts.
        t: where it ends.
        matching: the node of t for each node of s, -1 for none.
        share: in (0, 1).

    Raises:
        ValueError: share outside (0, 1), or a matching that uses a node twice or names none of t.
    """
    kept = matching >= 0
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    if (
        matching.shape != (len(s.nodes),)
        or len(set(matching[kept])) < kept.sum()
        or matching.max(initial=-1) >= len(t.nodes)
    ):
        raise ValueError(f"matching must name a different node of t, or -1, for each of {len(s.nodes)} nodes of s.")
    grown = np.setdiff1d(np.arange(len(t.nodes)), matching)
    partner = np.concatenate([np.where(kept, matching, len(t.nodes)), grown])  # of s's nodes, then of those that grow
    start = [np.pad(part, [(0, len(grown))] + [(0, 0)] * (part.ndim - 1)) for part in (s.nodes, s.mass)]
    end = [np.pad(part, [(0, 1)] + [(0, 0)] * (part.ndim - 1))[partner] for part in (t.nodes, t.mass)]
    nodes, mass = ((1 - share) * a + share * b for a, b in zip(start, end, strict=True))
    met = np.pad(t.edges, (0, 1))[partner[:, None], partner[None, :]]
    return StructuredGraph(nodes=nodes, mass=mass, edges=(1 - share) * np.pad(s.edges, (0, len(grown))) + share * met)


def _partial_matchings(count_s: int, count_t: int) -> Int[np.ndarray, "P N"]:
    """Return every injection of some nodes of s into those of t, `count_t` standing for a node that is left out."""
    number = sum(math.comb(count_s, k) * math.perm(count_t, k) for k in range(min(count_s, count_t) + 1))
    if number > MOST_MATCHINGS:
        raise ValueError(
            f"graphs of {count_s} and {count_t} nodes have {number} partial matchings; "
            f"the exact distance tries at most {MOST_MATCHINGS}."
        )
    found = np.full((number, count_s), count_t)
    row = 0
    for k in range(min(count_s, count_t) + 1):
        for matched in itertools.combinations(range(count_s), k):
            for partners in itertools.permutations(range(count_t), k):
                found[row, list(matched)] = partners
                row += 1
    return found
