"""Projection heads and the graph convolution that objectives put on an encoder."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.ops.cosine import at_least_float32
from medalign_core.ops.graphs import neighbour_means, propagate


def new_projector(
    feature_size: int,
    projection_size: int,
    *,
    depth: int = 1,
    norm: Literal["none", "batch"] = "none",
    hidden: int | None = None,
) -> nn.Sequential:
    """Return an MLP of `depth` linear maps from D to F, with ReLU between them; depth 1 is one linear map.

    Hidden layers have the width `hidden`, D if None. `norm="batch"` normalises each hidden layer, and the output when
    depth is 1.
    """
    layers: list[nn.Module] = []
    width, hidden = feature_size, hidden or feature_size
    for _ in range(depth - 1):
        layers.append(nn.Linear(width, hidden, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU())
        width = hidden
    layers.append(nn.Linear(width, projection_size))
    if norm == "batch" and depth == 1:
        layers.append(nn.BatchNorm1d(projection_size))
    return nn.Sequential(*layers)


class GraphConvolutions(nn.Module):
    """Layers of message passing with a ReLU after each but the last.

    "gcn": H_l = D^-1/2 (A + I) D^-1/2 H_{l-1} W_l (Kipf and Welling 2017; ops.graphs.propagate). A node counts as one
    among k + 1, so where the graphs of two views differ, as they do at random initialisation, two layers wash out what
    tells nodes apart.
    "graph_conv": H_l = H_{l-1} W_l + mean over neighbours of H_{l-1} V_l. The node has weights of its own.
    """

    def __init__(
        self, feature_size: int, *, width: int, layers: int, kind: Literal["gcn", "graph_conv"] = "gcn"
    ) -> None:
        super().__init__()
        sizes = [feature_size] + [width] * layers
        self.weights = nn.ModuleList(_matrices(sizes))
        self.neighbour_weights = nn.ModuleList(_matrices(sizes) if kind == "graph_conv" else [])

    def forward(
        self,
        nodes: Float[Tensor, "G N F"],
        neighbours: Bool[Tensor, "G N N"],
        *,
        dropout: float = 0.0,
        draws: torch.Generator | None = None,
    ) -> Float[Tensor, "G N W"]:
        """Return the nodes after all layers.

        Args:
            nodes: H_0.
            neighbours: A, row i holds the nodes that node i listens to.
            dropout: probability of a zero after each ReLU (kept values are scaled up); 0 in evaluation.
            draws: a CPU generator for the zeros: keyed, so that they do not depend on rank or device.
        """
        last = len(self.weights) - 1
        for number in range(len(self.weights)):
            nodes = self._layer(number, nodes, neighbours)
            if number == last:
                break
            nodes = torch.relu(nodes)
            if dropout > 0:
                kept = torch.rand(nodes.shape, generator=draws) >= dropout
                nodes = nodes * kept.to(nodes.device) / (1.0 - dropout)
        return nodes

    def _layer(self, number: int, nodes: Tensor, neighbours: Tensor) -> Tensor:
        weight = self.weights[number]
        # means over neighbours in the nodes' type, weights in theirs: half precision under an engine that casts them
        dtype = next(weight.parameters()).dtype
        if not self.neighbour_weights:
            return at_least_float32(weight(propagate(nodes, neighbours).to(dtype)))
        means = neighbour_means(nodes, neighbours).to(dtype)
        return at_least_float32(weight(nodes.to(dtype)) + self.neighbour_weights[number](means))


def _matrices(sizes: list[int]) -> list[nn.Linear]:
    matrices = [nn.Linear(i, o, bias=False) for i, o in zip(sizes, sizes[1:], strict=False)]
    for matrix in matrices:
        nn.init.xavier_uniform_(matrix.weight)
    return matrices
