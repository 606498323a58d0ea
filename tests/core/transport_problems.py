"""Transport problems and reference answers shared by the tests of the transport solvers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from medalign_core.solvers.sinkhorn import Sinkhorn, Transport

INF = math.inf
PENALTIES = [(1.0, 1.0), (0.1, 0.5), (INF, 0.05), (0.05, INF), (INF, INF)]


def random_problems(
    count: int, rows: int, columns: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs uniform in [0, 1] and random weights of sum 1."""
    draws = torch.Generator().manual_seed(seed)
    cost = torch.rand(count, rows, columns, generator=draws, dtype=torch.float64)
    a, b = (0.2 + torch.rand(count, size, generator=draws, dtype=torch.float64) for size in (rows, columns))
    return tuple(x.to(dtype) for x in (cost, a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)))


def cosine_problems(
    count: int, rows: int, columns: int, *, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """1 - cos of random unit vectors."""
    draws = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(count, n, size, generator=draws, dtype=torch.float64) for n in (rows, columns))
    x, y = (v / v.norm(dim=2, keepdim=True) for v in (x, y))
    return (1 - x @ y.transpose(1, 2)).to(dtype)


def pot_plan(cost: Tensor, a: Tensor, b: Tensor, solver: Sinkhorn) -> Tensor:
    """POT's plan of each problem, by plain scaling sweeps run to the end."""
    import ot

    kind = "kl" if solver.reference == "kl" else "entropy"
    plans = []
    for c, p, q in zip(cost.numpy(), a.numpy(), b.numpy(), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if solver.both_rho == (INF, INF):
                plans.append(ot.sinkhorn(p, q, c, solver.epsilon, numItermax=20000, stopThr=1e-14))
            else:
                plans.append(
                    ot.unbalanced.sinkhorn_unbalanced(
                        p, q, c, solver.epsilon, solver.both_rho, reg_type=kind, numItermax=20000, stopThr=1e-14
                    )
                )
    return torch.from_numpy(np.stack(plans))


def primal_value(plan: Tensor, cost: Tensor, a: Tensor, b: Tensor, solver: Sinkhorn) -> Tensor:
    """The objective of a plan, straight from its definition; hard constraints are not checked."""
    reference = a[:, :, None] * b[:, None, :] if solver.reference == "kl" else torch.ones_like(plan)
    total = (plan * cost).sum((1, 2)) + solver.epsilon * _kl(plan, reference).sum((1, 2))
    for rho, marginal, weight in zip(solver.both_rho, (plan.sum(2), plan.sum(1)), (a, b), strict=True):
        if not math.isinf(rho):
            total = total + rho * _kl(marginal, weight).sum(1)
    return total


def fixed_point_error(found: Transport, cost: Tensor, a: Tensor, b: Tensor, solver: Sinkhorn) -> Tensor:
    """L1 error of both marginals against a e^{-f / rho}, in float64, from the potentials alone."""
    f, g, cost, a, b = (x.double() for x in (found.f, found.g, cost, a, b))
    plan = torch.exp((f[:, :, None] + g[:, None, :] - cost) / solver.epsilon)
    if solver.reference == "kl":
        plan = plan * a[:, :, None] * b[:, None, :]
    rho_a, rho_b = solver.both_rho
    rows, columns = plan.sum(2) - a * (-f / rho_a).exp(), plan.sum(1) - b * (-g / rho_b).exp()
    return rows.abs().sum(1) + columns.abs().sum(1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.special.xlogy(p, p / q) - p + q
