"""Projection heads and the graph convolution that objectives put on an encoder."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.ops.cosine import at_least_float32
from medalign_core.ops.graphs import propagate


def new_projector(
    feature_size: int, projection_size: int, *, depth: int = 1, norm: Literal["none", "batch"] = "none"
) -> nn.Sequential:
    """Return an MLP of `depth` linear maps from D to F, with ReLU between them; depth 1 is one linear map.

    Hidden layers have the width D. `norm="batch"` normalises each hidden layer, and the output when depth is 1.
    """
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers.append(nn.Linear(feature_size, feature_size, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm1d(feature_size))
        layers.append(nn.ReLU())
    layers.append(nn.Linear(feature_size, projection_size))
    if norm == "batch" and depth == 1:
        layers.append(nn.BatchNorm1d(projection_size))
    return nn.Sequential(*layers)


class GraphConvolutions(nn.Module):
    """H_l = ReLU(D^-1/2 (A + I) D^-1/2 H_{l-1} W_l), the last layer without its ReLU (see ops.graphs.propagate)."""

    def __init__(self, feature_size: int, *, width: int, layers: int) -> None:
        super().__init__()
        sizes = [feature_size] + [width] * layers
        weights = [nn.Linear(i, o, bias=False) for i, o in zip(sizes, sizes[1:], strict=False)]
        for weight in weights:
            nn.init.xavier_uniform_(weight.weight)
        self.weights = nn.ModuleList(weights)

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
        for number, weight in enumerate(self.weights):
            # the mean over neighbours in the nodes' type, the weights in theirs (half precision under such an engine)
            means = propagate(nodes, neighbours).to(next(weight.parameters()).dtype)
            nodes = at_least_float32(weight(means))
            if number == last:
                return nodes
            nodes = torch.relu(nodes)
            if dropout > 0:
                kept = torch.rand(nodes.shape, generator=draws) >= dropout
                nodes = nodes * kept.to(nodes.device) / (1.0 - dropout)
        return nodes
