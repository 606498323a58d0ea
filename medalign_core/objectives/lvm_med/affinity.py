"""Vertex and edge affinities between the graphs of two views (LVM-Med, eq. 2-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32, normalize

TABLE_ELEMENTS = 1 << 24  # cell-to-cell cosines held at a time; more graphs than fit are taken in turn


@dataclass(frozen=True, kw_only=True)
class Affinities:
    """What G matching problems are made of, differentiable.

    Attributes:
        vertex: c^v, (G, N, N); 0 where either image is a hole.
        edge: c^e, (G, E, E); 0 where either edge touches a hole.
        edges_s: (G, E, 2), the k-NN edges of view s.
        edges_t: (G, E, 2), of view t.
        valid: (G, N), False for a hole.
        order: (G, N), a drawn permutation by which ties in view t, and between matchings, are broken.
    """

    vertex: Float[Tensor, "G N N"]
    edge: Float[Tensor, "G S T"]
    edges_s: Int[Tensor, "G S 2"]
    edges_t: Int[Tensor, "G T 2"]
    valid: Bool[Tensor, "G N"]
    order: Int[Tensor, "G N"]


def edge_affinity(
    nodes_s: Float[Tensor, "G N F"],
    nodes_t: Float[Tensor, "G N F"],
    edges_s: Int[Tensor, "G S 2"],
    edges_t: Int[Tensor, "G T 2"],
) -> Float[Tensor, "G S T"]:
    """Return c^e(ij, ab) = cos(z^s_i - z^s_j, z^t_a - z^t_b), in [-1, 1]; 0 where two nodes coincide."""
    return edge_directions(nodes_s, edges_s) @ edge_directions(nodes_t, edges_t).transpose(1, 2)


def edge_directions(nodes: Float[Tensor, "G N F"], edges: Int[Tensor, "G E 2"]) -> Float[Tensor, "G E F"]:
    """Return (z_i - z_j) / |z_i - z_j| for each edge; 0 where the difference is within the rounding of z_i and z_j."""
    ends = [nodes.gather(1, edges[..., side, None].expand(-1, -1, nodes.shape[2])) for side in (0, 1)]
    with torch.no_grad():
        lengths = ends[0].norm(dim=-1, keepdim=True) + ends[1].norm(dim=-1, keepdim=True)
        floor = 8 * torch.finfo(nodes.dtype).eps * lengths
    return normalize(ends[0] - ends[1], floor=floor)


def local_affinity(
    cells_s: Float[Tensor, "G N P D"],
    cells_t: Float[Tensor, "G N Q D"],
    grid_s: Float[Tensor, "G N P 2"],
    grid_t: Float[Tensor, "G N Q 2"],
    *,
    matches: int,
    reduction: Literal["mean", "sum"],
) -> Float[Tensor, "G N N"]:
    """Return c_lo(i, a) for all pairs of images, from cells matched by place and by feature (eq. 2-3).

    For each cell p of image i, m(p) is the cell of image a nearest in source coordinates and m'(p) the one nearest in
    feature space (Euclidean); c_lo(s -> t) = mean_p cos(y_p, y_m(p)) + mean_p cos(y_p, y_m'(p)), each mean over the
    `matches` cells with the smallest distances (0: over all). "sum" is c_lo(s -> t) + c_lo(t -> s), in [-4, 4]; "mean"
    is a quarter of that, in [-1, 1]. Which cells match is constant for the gradient.
    """
    graphs, nodes, size_s, _ = cells_s.shape
    step = max(1, TABLE_ELEMENTS // (nodes * size_s * nodes * cells_t.shape[2]))
    tables = [
        _local_affinity(cells_s[g], cells_t[g], grid_s[g], grid_t[g], matches)
        for g in (slice(start, start + step) for start in range(0, graphs, step))
    ]
    total = torch.cat(tables)
    return total / 4 if reduction == "mean" else total


def best_location_matches(
    grid_s: Float[Tensor, "G N P 2"], grid_t: Float[Tensor, "G N Q 2"], *, matches: int
) -> tuple[Int[Tensor, "G N M"], Int[Tensor, "G N M"]]:
    """Return, for each image's own two views, the cells p with the nearest m(p), nearest first, and their m(p)."""
    distance = torch.cdist(grid_s, grid_t, compute_mode="donot_use_mm_for_euclid_dist")  # (G, N, P, Q)
    nearest, partner = distance.min(dim=3)
    kept = min(matches or nearest.shape[2], nearest.shape[2])
    cells = nearest.sort(dim=2, stable=True).indices[..., :kept]
    return cells, partner.gather(2, cells)


def _local_affinity(cells_s: Tensor, cells_t: Tensor, grid_s: Tensor, grid_t: Tensor, matches: int) -> Tensor:
    graphs, nodes, size_s, _ = cells_s.shape
    shape = (graphs, nodes, size_s, nodes, cells_t.shape[2])  # [g, i, p, a, q]
    cells_s, cells_t = (at_least_float32(cells).flatten(1, 2) for cells in (cells_s, cells_t))
    cosine = (normalize(cells_s) @ normalize(cells_t).transpose(1, 2)).reshape(shape)
    with torch.no_grad():
        length_s, length_t = cells_s.norm(dim=2), cells_t.norm(dim=2)
        product = (length_s[:, :, None] * length_t[:, None, :]).reshape(shape) * cosine
        squares = length_s.square()[:, :, None] + length_t.square()[:, None, :]
        by_feature = squares.reshape(shape) - 2 * product
        flat_s, flat_t = grid_s.flatten(1, 2), grid_t.flatten(1, 2)
        by_place = torch.cdist(flat_s, flat_t, compute_mode="donot_use_mm_for_euclid_dist").reshape(shape)
    terms = [
        _mean_over_best(cosine, distance, over=over, matches=matches)
        for distance in (by_place, by_feature)
        for over in (4, 2)  # s -> t: the nearest q of each p; t -> s: the nearest p of each q
    ]
    return torch.stack(terms).sum(dim=0)


def _mean_over_best(cosine: Tensor, distance: Tensor, *, over: int, matches: int) -> Tensor:
    """Return (G, N, N): nearest cells along axis `over`, then the mean cosine over the best `matches` of the others."""
    nearest = distance.min(dim=over, keepdim=True)
    matched = cosine.gather(over, nearest.indices).squeeze(over)
    cells = 2 if over == 4 else 3  # where the other view's cells are once `over` is gone
    if matches == 0 or matches >= matched.shape[cells]:
        return matched.mean(dim=cells)
    best = nearest.values.squeeze(over).topk(matches, dim=cells, largest=False).indices
    return matched.gather(cells, best).mean(dim=cells)
