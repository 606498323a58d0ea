"""Batched k-nearest-neighbour graphs and the propagation of a graph convolution over them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def knn_edges(
    nodes: Float[Tensor, "G N F"],
    neighbours: int,
    *,
    valid: Bool[Tensor, "G N"] | None = None,
    order: Int[Tensor, "G N"] | None = None,
) -> Int[Tensor, "G E 2"]:
    """Return the directed edges (i, j) from every node i to its `neighbours` nearest nodes j (Euclidean).

    Exactly E = N * neighbours edges per graph, no self loop, none twice, ordered by i and then by distance. An invalid
    node is nobody's neighbour while valid ones are left; edges that touch one still fill the list, so that shapes stay
    fixed: mask them with `edge_mask`. Not differentiable.

    Args:
        nodes: the embeddings, one row per node.
        neighbours: k, in [1, N - 1].
        valid: True where the node exists (default: everywhere).
        order: a permutation of the nodes; of equally distant nodes the one earlier in it is nearer (default: by index).
            Two views of coinciding points, both ordered by index, would have the same graph and so give away which
            node is which; give one of them an order of its own.

    Raises:
        ValueError: `neighbours` outside [1, N - 1].
    """
    graphs, size, _ = nodes.shape
    if not 1 <= neighbours < size:
        raise ValueError(f"neighbours must be in [1, nodes - 1 = {size - 1}], got {neighbours}.")
    nodes = nodes.detach()
    if order is not None:
        return _knn_edges_in_order(nodes, neighbours, valid, order)
    distance = torch.cdist(nodes, nodes, compute_mode="donot_use_mm_for_euclid_dist")  # (G, N, N), no cancellation
    if valid is not None:
        distance = torch.where(valid[:, None, :], distance, torch.inf)
    others = _others(size, nodes.device).expand(graphs, size, size - 1)
    # self is left out before the sort rather than given a large distance: so it cannot be chosen even among nan
    order = distance.gather(2, others).sort(dim=2, stable=True).indices[:, :, :neighbours]
    target = others.gather(2, order)
    source = torch.arange(size, device=nodes.device)[None, :, None].expand_as(target)
    return torch.stack([source, target], dim=-1).reshape(graphs, size * neighbours, 2)


def edge_mask(edges: Int[Tensor, "G E 2"], valid: Bool[Tensor, "G N"]) -> Bool[Tensor, "G E"]:
    """Return True where both ends of an edge are valid nodes."""
    return valid.gather(1, edges[..., 0]) & valid.gather(1, edges[..., 1])


def adjacency(
    edges: Int[Tensor, "G E 2"], size: int, *, mask: Bool[Tensor, "G E"] | None = None
) -> Bool[Tensor, "G N N"]:
    """Return the dense adjacency, True at [i, j] for every edge (i, j) that the mask keeps."""
    graphs = edges.shape[0]
    table = torch.zeros(graphs, size * size, dtype=torch.bool, device=edges.device)
    index = edges[..., 0] * size + edges[..., 1]
    kept = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
    return table.scatter(1, index, kept).reshape(graphs, size, size)


def propagate(features: Float[Tensor, "G N F"], neighbours: Bool[Tensor, "G N N"]) -> Float[Tensor, "G N F"]:
    """Return D^-1/2 (A + I) D^-1/2 X, the propagation of a graph convolution (Kipf and Welling 2017, eq. 2).

    A is directed (row i holds the neighbours that node i listens to) and D_ii = 1 + sum_j A_ij, so an isolated node
    keeps its own features. On a k-NN graph D = k + 1 everywhere and this is the plain mean over a node and its
    neighbours: constant features stay constant.
    """
    size = neighbours.shape[-1]
    connected = neighbours.to(features.dtype) + torch.eye(size, dtype=features.dtype, device=features.device)
    scale = connected.sum(dim=-1).rsqrt()  # (G, N)
    return (connected * scale[:, :, None] * scale[:, None, :]) @ features


def neighbour_means(features: Float[Tensor, "G N F"], neighbours: Bool[Tensor, "G N N"]) -> Float[Tensor, "G N F"]:
    """Return the mean of X over the neighbours of each node, itself left out; 0 for an isolated node."""
    connected = neighbours.to(features.dtype)
    return (connected / connected.sum(dim=-1, keepdim=True).clamp(min=1)) @ features


def _knn_edges_in_order(nodes: Tensor, neighbours: int, valid: Tensor | None, order: Tensor) -> Tensor:
    graphs, size, _ = nodes.shape
    sorted_nodes = nodes.gather(1, order[..., None].expand_as(nodes))
    edges = knn_edges(sorted_nodes, neighbours, valid=None if valid is None else valid.gather(1, order))
    edges = order.gather(1, edges.flatten(1)).reshape(graphs, size, neighbours * 2)  # back to the nodes' own numbers
    place = order.argsort(dim=1)[..., None].expand_as(edges)
    return edges.gather(1, place).reshape(graphs, size * neighbours, 2)


def _others(size: int, device: torch.device) -> Int[Tensor, "N M"]:
    """Return (N, N - 1): row i holds all nodes but i, in order."""
    column = torch.arange(size - 1, device=device)[None, :]
    return column + (column >= torch.arange(size, device=device)[:, None]).long()
