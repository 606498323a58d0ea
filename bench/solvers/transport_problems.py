"""Batches of optimal transport problems: 1 - cosine of random unit vectors, uniform marginals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Problems:
    """P problems of M tokens by N prompts, and how much their marginals may give.

    Attributes:
        cost: (P, M, N) float32, in [0, 2].
        weight: (P, M, N), the incoming gradient of the plan.
        epsilon: the entropic regularisation.
        rho_a: of the token side, inf where it is hard.
        rho_b: of the prompt side.
    """

    cost: Tensor
    weight: Tensor
    epsilon: float
    rho_a: float
    rho_b: float

    @property
    def a(self) -> Tensor:
        """(M,), uniform."""
        return torch.full((self.cost.shape[1],), 1.0 / self.cost.shape[1])

    @property
    def b(self) -> Tensor:
        """(N,), uniform."""
        return torch.full((self.cost.shape[2],), 1.0 / self.cost.shape[2])

    @property
    def tau(self) -> tuple[float, float]:
        """Of both sides rho / (rho + epsilon); 1 where a side is hard."""
        return (_tau(self.rho_a, self.epsilon), _tau(self.rho_b, self.epsilon))

    def first(self, count: int) -> Problems:
        """Return the first problems alone."""
        return Problems(
            cost=self.cost[:count],
            weight=self.weight[:count],
            epsilon=self.epsilon,
            rho_a=self.rho_a,
            rho_b=self.rho_b,
        )


def draw(
    problems: int, shape: tuple[int, int], *, epsilon: float, rho_a: float, rho_b: float, dimension: int = 16
) -> Problems:
    """Draw problems from a fixed seed: `dimension` 16 spreads the cosines (deviation 0.25), 512 flattens them."""
    draws = torch.Generator().manual_seed(0)
    tokens, prompts = (
        torch.nn.functional.normalize(torch.randn(problems, size, dimension, generator=draws), dim=-1) for size in shape
    )
    cost = 1 - tokens @ prompts.transpose(1, 2)
    weight = torch.randn(cost.shape, generator=draws)
    return Problems(cost=cost.contiguous(), weight=weight, epsilon=epsilon, rho_a=rho_a, rho_b=rho_b)


def worst_residual(problems: Problems, f: Tensor | np.ndarray, g: Tensor | np.ndarray) -> float:
    """Return the largest L1 error of both marginal fixed points over the batch, in float64 from the potentials given.

    sum_m |T1 - a exp(-f / rho_a)| + sum_n |T'1 - b exp(-g / rho_b)| with T = a b exp((f + g - C) / epsilon).
    """
    f, g = (torch.from_numpy(np.array(side, dtype=np.float64)) for side in (f, g))
    a, b, cost = problems.a.double(), problems.b.double(), problems.cost.double()
    plan = torch.exp((f[:, :, None] + g[:, None, :] - cost) / problems.epsilon) * a[:, None] * b
    rows = (plan.sum(2) - a * torch.exp(-f / problems.rho_a)).abs().sum(1)
    columns = (plan.sum(1) - b * torch.exp(-g / problems.rho_b)).abs().sum(1)
    return float((rows + columns).nan_to_num(torch.inf).max())


def _tau(rho: float, epsilon: float) -> float:
    return 1.0 if rho == float("inf") else rho / (rho + epsilon)
