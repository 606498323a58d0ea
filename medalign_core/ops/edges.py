"""Edge features: the directions between the nodes that edges join, and their cosines."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medalign_core.ops.cosine import normalize


def edge_affinity(
    nodes_s: Float[Tensor, "G N F"],
    nodes_t: Float[Tensor, "G N F"],
    edges_s: Int[Tensor, "G S 2"],
    edges_t: Int[Tensor, "G T 2"],
) -> Float[Tensor, "G S T"]:
    """Return c^e(ij, ab) = cos(z^s_i - z^s_j, z^t_a - z^t_b), in [-1, 1]; 0 where two nodes coincide.

    (LVM-Med, sec. 3.2.) The table has (N k)^2 entries; a solver and its gradient need no more than the directions.
    """
    return edge_directions(nodes_s, edges_s) @ edge_directions(nodes_t, edges_t).transpose(1, 2)


def edge_directions(nodes: Float[Tensor, "G N F"], edges: Int[Tensor, "G E 2"]) -> Float[Tensor, "G E F"]:
    """Return (z_i - z_j) / |z_i - z_j| for each edge; 0 where the difference is within the rounding of z_i and z_j."""
    graphs, size, width = nodes.shape
    ends = (edges + size * torch.arange(graphs, device=edges.device)[:, None, None]).flatten(0, 1)
    return directions(nodes.reshape(graphs * size, width), ends).reshape(graphs, -1, width)


def directions(nodes: Float[Tensor, "M F"], ends: Int[Tensor, "E 2"]) -> Float[Tensor, "E F"]:
    """Return it for edges (i, j) between the rows of one table.

    A direction that is 0 has the gradient 0. Rows are taken by index_select, whose gradient adds whole rows.
    """
    tails, heads = ends.unbind(dim=1)
    difference = nodes.index_select(0, tails) - nodes.index_select(0, heads)
    with torch.no_grad():
        size = torch.linalg.vector_norm(nodes, dim=1, keepdim=True)
        floor = 8 * torch.finfo(nodes.dtype).eps * (size.index_select(0, tails) + size.index_select(0, heads))
    return normalize(difference, floor=floor)
