"""Local vertex affinities between the images of two views, from their feature maps' cells (LVM-Med, eq. 2-3)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32, normalize

TABLE_ELEMENTS = 1 << 24  # cell-to-cell cosines held at a time; more graphs than fit are taken in turn


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
