"""Sweeps that autograd differentiates one by one: the oracle of the implicit gradient. Memory grows with the sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medalign_core.solvers.transport.plans import value_and_mass
from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.result import Transport
from medalign_core.solvers.transport.status import Status

if TYPE_CHECKING:
    from medalign_core.solvers.sinkhorn import Sinkhorn

DEFAULT_SWEEPS = 300


def solve_unrolled(problem: Problem, settings: Sinkhorn) -> Transport:
    """Run exactly max_iterations sweeps (None: 300) in the log domain; potentials, value and plan carry a gradient."""
    sweeps = DEFAULT_SWEEPS if settings.max_iterations is None else settings.max_iterations
    constants = problem.constants
    log_a, log_b = (torch.where(w > 0, w, 1.0).log() for w in (problem.a, problem.b))
    dead_a, dead_b = (torch.where(w > 0, 0.0, -torch.inf) for w in (problem.a, problem.b))
    # under the counting measure the weights leave the sums and enter the potentials
    outer_a, outer_b = (constants.epsilon * w if constants.counting else w * 0 for w in (log_a, log_b))
    inner_a, inner_b = (d if constants.counting else w + d for w, d in ((log_a, dead_a), (log_b, dead_b)))
    scaled = problem.cost / constants.epsilon
    g = torch.zeros_like(problem.b)
    for _ in range(sweeps):
        f = _update(scaled, inner_b, g, epsilon=constants.epsilon, dim=2)
        f = constants.tau_a * (outer_a + f)
        g = constants.tau_b * (outer_b + _update(scaled, inner_a, f, epsilon=constants.epsilon, dim=1))
    f, g = torch.where(problem.a > 0, f, 0.0), torch.where(problem.b > 0, g, 0.0)
    exponent = (f[:, :, None] + g[:, None, :]) / constants.epsilon - scaled
    plan = torch.exp(exponent + inner_a[:, :, None] + inner_b[:, None, :])
    value, mass = value_and_mass(problem, f, g)
    # the sweeps end with g, so the column equations hold; those of the rows show how far the sweeps have come
    residual = (plan.sum(dim=2) - problem.a * (-f / constants.rho_a).exp()).abs().sum(dim=1).detach()
    # the plan's own mass: row equations hold only in the limit, and the value's gradient should be that of the sweeps
    value = value + constants.epsilon * (mass - plan.sum(dim=(1, 2)))
    status = torch.where(residual <= settings.tol, int(Status.CONVERGED), int(Status.ITERATION_LIMIT)).to(torch.int32)
    if problem.failed is not None:
        status = torch.where(problem.failed, int(Status.FAILED), status).to(torch.int32)
        plan = torch.where(problem.failed[:, None, None], 0.0, plan)
    return Transport(
        f=f,
        g=g,
        value=value,
        mass=plan.sum(dim=(1, 2)).detach(),
        status=status,
        iterations=torch.full_like(status, sweeps),
        residual=residual,
        backend="torch",
        make_plan=lambda: plan,
    )


def _update(scaled: Tensor, log_weight: Tensor, potential: Tensor, *, epsilon: float, dim: int) -> Tensor:
    """Return -eps log sum over `dim` of weight e^{(potential - C) / eps}."""
    part = (log_weight + potential / epsilon).unsqueeze(1 if dim == 2 else 2)
    return -epsilon * torch.logsumexp(part - scaled, dim=dim)
