"""A target: frozen copies of networks that follow them slowly, by an exponential moving average."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Target(nn.Module):
    """Frozen copies of networks; weight <- momentum weight + (1 - momentum) the network's weight, once a step.

    The average is kept in float32 whatever the weights' type: in bfloat16 a step of 1 - momentum would be rounded away.
    Batch norms of the copies have statistics of their own, of what the copies see.

    Args:
        networks: that are followed; copied as they are now.
        momentum: in [0, 1]; 1 never moves.
    """

    def __init__(self, networks: Sequence[nn.Module], momentum: float) -> None:
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(network) for network in networks).requires_grad_(False)
        self.momentum = momentum
        # plain tensors, no buffers: an engine that casts the module to bfloat16 would round them
        self._average = {name: weight.detach().clone().float() for name, weight in self.networks.named_parameters()}

    @torch.no_grad()
    def follow(self, networks: Sequence[nn.Module]) -> None:
        """Take a step towards the networks."""
        leaders = [weight for network in networks for weight in network.parameters()]
        for (name, own), leader in zip(self.networks.named_parameters(), leaders, strict=True):
            average = self._average[name] = self._average[name].to(own.device)
            average.lerp_(leader.detach().float(), 1.0 - self.momentum)
            own.copy_(average)

    def carried(self, prefix: str) -> dict[str, Tensor]:
        """Return the averages in float32, by the copies' names below `prefix`."""
        return {f"{prefix}.networks.{name}": average for name, average in self._average.items()}

    @torch.no_grad()
    def load_carried(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Set the averages, and the copies' weights, from `carried`'s tensors."""
        for name, own in self.networks.named_parameters():
            self._average[name] = tensors[f"{prefix}.networks.{name}"].detach().clone().float().to(own.device)
            own.copy_(self._average[name])
