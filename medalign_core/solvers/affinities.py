"""Affinities of graph pairs as tensors: what a batch of matching problems is made of, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32
from medalign_core.ops.edges import directions, edge_directions
from medalign_core.solvers.matching_problem import MatchingProblem
from medalign_core.solvers.noise import Noise

TABLE_ENTRIES = 1 << 17  # 64 nodes of 5 neighbours have 102,400


@dataclass(frozen=True, kw_only=True)
class Affinities:
    """What G matching problems are made of (see MatchingProblem for the objective).

    Edge affinities come in one of three forms. Only the first takes (N k)^2 numbers, here and in the gradient; the last
    keeps no more than the nodes for the backward pass.
    - `edge`: a table;
    - `edge_features_s`, `edge_features_t`: factors, c^e[e, f] = <x_e, y_f> + edge_offset;
    - `nodes_s`, `nodes_t`: factors again, x_ij = (z_i - z_j) / |z_i - z_j|, the cosine of node differences
      (ops.edges.edge_affinity) + edge_offset.

    Attributes:
        vertex: c^v, (G, N, N).
        edges_s: (G, S, 2), directed edges (i, j) of graph s.
        edges_t: (G, T, 2), of graph t.
        edge: (G, S, T).
        edge_features_s: x, (G, S, D).
        edge_features_t: y, (G, T, D).
        nodes_s: z of s, (G, N, F).
        nodes_t: z of t, (G, N, F).
        edge_offset: the constant of the two factor forms.
        valid: (G, N), False for a hole, which counts nothing; None: all valid.
        order: (G, N), a drawn permutation by which ties between matchings are broken; None: by the nodes' numbers,
            which favours the identity.

    Raises:
        ValueError: not exactly one form of the edge affinities is given.
    """

    vertex: Float[Tensor, "G N N"]
    edges_s: Int[Tensor, "G S 2"]
    edges_t: Int[Tensor, "G T 2"]
    edge: Float[Tensor, "G S T"] | None = None
    edge_features_s: Float[Tensor, "G S D"] | None = None
    edge_features_t: Float[Tensor, "G T D"] | None = None
    nodes_s: Float[Tensor, "G N F"] | None = None
    nodes_t: Float[Tensor, "G N F"] | None = None
    edge_offset: float = 0.0
    valid: Bool[Tensor, "G N"] | None = None
    order: Int[Tensor, "G N"] | None = None

    def __post_init__(self) -> None:
        features, nodes = (self.edge_features_s, self.edge_features_t), (self.nodes_s, self.nodes_t)
        given = [part is not None for part in (self.edge, *features, *nodes)]
        if given not in ([True] + [False] * 4, [False, True, True, False, False], [False] * 3 + [True] * 2):
            raise ValueError("give edge, or edge_features_s and edge_features_t, or nodes_s and nodes_t.")

    def factors(self) -> tuple[Float[Tensor, "G S D"], Float[Tensor, "G T D"]]:
        """Return x and y, in float32 at least.

        Raises:
            ValueError: the edge affinities are a table.
        """
        if self.edge is not None:
            raise ValueError("edge affinities that are a table have no factors.")
        if self.edge_features_s is not None and self.edge_features_t is not None:
            return at_least_float32(self.edge_features_s), at_least_float32(self.edge_features_t)
        assert self.nodes_s is not None
        assert self.nodes_t is not None
        if self.edges_s.shape == self.edges_t.shape:  # both graphs in one go: half the operations, and these are small
            nodes = torch.cat([at_least_float32(self.nodes_s), at_least_float32(self.nodes_t)])
            x, y = edge_directions(nodes, torch.cat([self.edges_s, self.edges_t])).chunk(2)
            return x, y
        return (
            edge_directions(at_least_float32(self.nodes_s), self.edges_s),
            edge_directions(at_least_float32(self.nodes_t), self.edges_t),
        )

    def edge_table(self) -> Float[Tensor, "G S T"]:
        """Return c^e as a table, in float32 at least; in a factor form this builds it."""
        if self.edge is not None:
            return at_least_float32(self.edge)
        with torch.autocast(device_type=self.vertex.device.type, enabled=False):
            x, y = self.factors()
            return x @ y.transpose(1, 2) + self.edge_offset

    def edge_pairs(
        self, graph: Int[Tensor, " P"], edge_s: Int[Tensor, " P"], edge_t: Int[Tensor, " P"]
    ) -> Float[Tensor, " P"]:
        """Return c^e at P pairs of edges, differentiably, in O(P D): of features and nodes only their rows are read.

        Args:
            graph: the graph of each pair.
            edge_s: the number of its edge of s, in [0, S).
            edge_t: the number of its edge of t, in [0, T).
        """
        row_s, row_t = graph * self.edges_s.shape[1] + edge_s, graph * self.edges_t.shape[1] + edge_t
        if self.edge is not None:
            flat = row_s * self.edge.shape[2] + edge_t
            return at_least_float32(self.edge.reshape(-1).index_select(0, flat))
        if self.edge_features_s is not None and self.edge_features_t is not None:
            x = at_least_float32(self.edge_features_s.flatten(0, 1).index_select(0, row_s))
            y = at_least_float32(self.edge_features_t.flatten(0, 1).index_select(0, row_t))
        else:
            assert self.nodes_s is not None
            assert self.nodes_t is not None
            nodes = torch.cat([at_least_float32(self.nodes_s), at_least_float32(self.nodes_t)]).flatten(0, 1)
            first = graph * self.vertex.shape[1]
            ends_s = first[:, None] + self.edges_s.flatten(0, 1).index_select(0, row_s)
            ends_t = first[:, None] + self.edges_t.flatten(0, 1).index_select(0, row_t) + len(nodes) // 2
            x, y = directions(nodes, torch.cat([ends_s, ends_t])).chunk(2)
        return (x * y).sum(dim=1) + self.edge_offset


@dataclass(frozen=True, kw_only=True)
class Perturbations:
    """R samples of what is added to the affinities of G problems before they are solved.

    Attributes:
        vertex: (R, G, N, N).
        edge: (R, G, S, T), or None where edges stay as they are: only then a factor form remains one.
    """

    vertex: Float[np.ndarray, "R G N N"]
    edge: Float[np.ndarray, "R G S T"] | None = None

    @property
    def samples(self) -> int:
        """R."""
        return len(self.vertex)


def draw_perturbations(
    affinities: Affinities, noise: Noise, draws: Sequence[torch.Generator], *, samples: int = 1, edges: bool = True
) -> Perturbations:
    """Draw independent noise for every vertex affinity and, unless `edges` is False, every edge affinity.

    Args:
        affinities: of G graphs; only their shapes are read.
        noise: what to draw.
        draws: a generator for each graph, so that no graph's noise depends on how many others there are.
        samples: R >= 1.
        edges: whether edges are perturbed too.

    Raises:
        ValueError: samples < 1, or not one generator for each graph.
    """
    graphs, size, _ = affinities.vertex.shape
    if samples < 1 or len(draws) != graphs:
        raise ValueError(
            f"samples must be >= 1 and draws one for each of {graphs} graphs, got {samples}, {len(draws)}."
        )
    pairs = (affinities.edges_s.shape[1], affinities.edges_t.shape[1])
    vertex = np.empty((samples, graphs, size, size))
    edge = np.empty((samples, graphs, *pairs)) if edges else None
    for r in range(samples):
        for g, stream in enumerate(draws):
            vertex[r, g] = noise.draw((size, size), stream)
            if edge is not None:
                edge[r, g] = noise.draw(pairs, stream)
    return Perturbations(vertex=vertex, edge=edge)


def matching_problem(affinities: Affinities, perturbations: Perturbations | None = None) -> MatchingProblem:
    """Return the R * G problems to solve, sample by sample, on the CPU; R = 1 without perturbations.

    Factors stay factors unless edges are perturbed, or their table has at most TABLE_ENTRIES entries a problem: a
    solver reads that faster than it multiplies. The gradient does not depend on it.
    """
    edge, x, y = _edge_form(affinities)
    problem = MatchingProblem(
        vertex_affinity=_array(at_least_float32(affinities.vertex)).astype(np.float64),
        edge_affinity=edge,
        edge_features_s=x,
        edge_features_t=y,
        edge_offset=affinities.edge_offset if edge is None else 0.0,
        edges_s=_array(affinities.edges_s),
        edges_t=_array(affinities.edges_t),
        valid=None if affinities.valid is None else _array(affinities.valid),
        order=None if affinities.order is None else _array(affinities.order),
    )
    return problem if perturbations is None else _perturbed(problem, perturbations)


def _perturbed(problem: MatchingProblem, perturbations: Perturbations) -> MatchingProblem:
    samples, noise = perturbations.samples, perturbations.edge
    changes: dict[str, Any] = {
        name: np.tile(part, (samples,) + (1,) * (part.ndim - 1))
        for name, part in vars(problem).items()
        if isinstance(part, np.ndarray) and samples > 1
    }
    vertex = problem.vertex_affinity + perturbations.vertex
    changes["vertex_affinity"] = vertex.reshape(-1, *vertex.shape[2:])
    if noise is not None:
        edge = (problem.dense_edge_affinity() + noise).reshape(-1, *noise.shape[2:])
        changes |= {"edge_affinity": edge, "edge_features_s": None, "edge_features_t": None, "edge_offset": 0.0}
    return replace(problem, **changes)


def _array(part: Tensor) -> np.ndarray:
    array: np.ndarray = part.detach().cpu().numpy()
    return array


@torch.no_grad()
def _edge_form(affinities: Affinities) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return the table and None twice, or None and the factors."""
    if affinities.edge is not None:
        return _array(at_least_float32(affinities.edge)).astype(np.float64), None, None
    x, y = (_array(part) for part in affinities.factors())
    if x.shape[1] * y.shape[1] > TABLE_ENTRIES:
        return None, x, y
    table = x @ y.transpose(0, 2, 1)
    table += affinities.edge_offset
    return table, None, None
