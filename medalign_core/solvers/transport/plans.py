"""The plan and the value from potentials, and the gradient of the plan by the implicit function theorem."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.solvers.transport.batching import chunk_size
from medalign_core.solvers.transport.problem import Problem


def plan_of(problem: Problem, g: Float[Tensor, "P N"]) -> Float[Tensor, "P M N"]:
    """Return T_mn = r_m p_mn (see reduced.py) from the column potentials alone.

    So rows meet their equation to rounding whatever g is; a hard row side gets exactly its mass. 0 where it failed.
    """
    out = problem.cost.detach().new_empty(problem.cost.shape)
    size = chunk_size(problem)
    for start in range(0, len(out), size):
        at = slice(start, start + size)
        out[at] = _plan(problem.take(at), g[at]).transpose(1, 2)
    if problem.failed is not None:
        out.masked_fill_(problem.failed[:, None, None], 0.0)
    return out


def _plan(problem: Problem, g: Tensor) -> Tensor:
    """Return the plan of a chunk, columns first."""
    b = problem.b
    log_beta = torch.where(b > 0, 0.0, -torch.inf) if problem.constants.counting else b.log()
    out = problem.cost.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    torch.sub(g[:, :, None], out, out=out).div_(problem.constants.epsilon).add_(log_beta[:, :, None])
    top = out.amax(dim=1)
    out.sub_(top[:, None, :]).exp_()
    s = out.sum(dim=1)
    return out.mul_((_row_mass(problem, s.log() + top) / s)[:, None, :])


def _row_mass(problem: Problem, log_z: Tensor) -> Tensor:
    if math.isinf(problem.constants.rho_a):
        return problem.a
    power = problem.constants.tau_a if problem.constants.counting else 1.0
    most = 0.5 * math.log(torch.finfo(log_z.dtype).max)  # costs far below 0, or rounded away: saturate, stay finite
    return (power * problem.a.log() + problem.constants.slack_a * log_z).clamp_max(most).exp()


def value_and_mass(
    problem: Problem, f: Float[Tensor, "P M"], g: Float[Tensor, "P N"]
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Return the value of the dual, which is that of the problem at its solution, and the mass of the plan.

    V = sum_m rho_a a_m (1 - e^{-f_m / rho_a}) + sum_n rho_b b_n (1 - e^{-g_n / rho_b}) + eps (reference mass - mass),
    the first term sum_m a_m f_m where rho_a = inf, likewise the second. The reference mass is (sum a)(sum b), or the
    number of live pairs under the counting measure. mass = sum_m a_m e^{-f_m / rho_a}. nan and 0 where it failed.
    """
    a, b, constants = problem.a, problem.b, problem.constants
    total = a.sum(dim=1)
    if constants.counting:
        reference = (a > 0).sum(dim=1) * (b > 0).sum(dim=1)
    else:
        reference = total * b.sum(dim=1)
    worth_a, change = _worth(a, f, constants.rho_a)
    worth_b, _ = _worth(b, g, constants.rho_b)
    mass = total + change
    value = worth_a + worth_b + constants.epsilon * (reference - mass)
    if problem.failed is None:
        return value, mass
    return torch.where(problem.failed, torch.nan, value), torch.where(problem.failed, 0.0, mass)


def _worth(weight: Tensor, potential: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Return a side's term of the dual, and by how much the plan's mass differs from the side's."""
    if math.isinf(rho):
        return (weight * potential).sum(dim=1), weight.new_zeros(len(weight))
    change = (weight * torch.expm1(potential / -rho)).sum(dim=1)
    return -rho * change, change


def plan_backward(
    problem: Problem, plan: Float[Tensor, "P M N"], grad: Float[Tensor, "P M N"]
) -> Float[Tensor, "P M N"]:
    """Return the gradient by the cost of <grad, T>, T the plan, by one N x N solve per problem.

    Differentiating the two fixed-point equations and taking the adjoint, with Z = grad * T, z = Z 1, r = T 1, c = T' 1:
        (diag(c) - tau_a tau_b T' diag(1/r) T) mu = Z' 1 - tau_a T' (z / r),
        dC = T / eps * (tau_a (z - tau_b T mu) / r + tau_b mu' - grad).
    The matrix is nearly singular along 1 where both tau are near 1; that part of mu is written down in closed form,
    (1 - tau_a) sum z / ((1 - tau_a tau_b) sum c), and is free, taken as 0, where both sides are hard.
    """
    out = plan.new_empty(plan.shape)
    size = chunk_size(problem)
    for start in range(0, len(out), size):
        at = slice(start, start + size)
        parts = (x[at].transpose(1, 2).clone(memory_format=torch.contiguous_format) for x in (plan, grad))
        out[at] = _backward(problem, *parts).transpose(1, 2)
    return out


def _backward(problem: Problem, plan: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of a chunk; all three are columns first."""
    tau_a, tau_b = problem.constants.tau_a, problem.constants.tau_b
    r = plan.sum(dim=1)  # (P, M)
    inverse = torch.where(r > torch.finfo(plan.dtype).tiny, 1 / r, 0.0)
    out = grad * plan  # Z
    z, be = out.sum(dim=1), out.sum(dim=2)
    z_inverse = z * inverse
    gram = torch.bmm(torch.mul(plan, inverse[:, None, :], out=out), plan.transpose(1, 2))
    right = be - tau_a * torch.linalg.vecdot(plan, z_inverse[:, None, :])
    mu = _solve(problem, gram, right, total=z.sum(dim=1, keepdim=True))
    rows = tau_a * (z_inverse - tau_b * inverse * torch.bmm(mu[:, None, :], plan)[:, 0])
    torch.sub(rows[:, None, :], grad, out=out)
    return out.add_(tau_b * mu[:, :, None]).mul_(plan).div_(problem.constants.epsilon)


def _solve(problem: Problem, gram: Tensor, right: Tensor, *, total: Tensor) -> Tensor:
    """Solve (diag(c) - tau_a tau_b gram) mu = right, c the row sums of gram, by Sherman and Morrison around + c c'."""
    slack = (
        problem.constants.slack_a + problem.constants.slack_b
    ) - problem.constants.slack_a * problem.constants.slack_b  # 1 - tau_a tau_b
    mass = gram.sum(dim=(1, 2))[:, None]
    c = gram.sum(dim=2).clamp_min(torch.finfo(gram.dtype).tiny)
    root = c.sqrt()
    scale = root[:, :, None] * root[:, None, :]
    matrix = scale / mass[:, :, None].clamp_min(torch.finfo(gram.dtype).tiny) - (1 - slack) * (gram / scale)
    matrix.diagonal(dim1=1, dim2=2).add_(1 + 4 * torch.finfo(gram.dtype).eps)
    factor = torch.linalg.cholesky_ex(matrix)[0]
    mu = torch.cholesky_solve((right / root)[:, :, None], factor)[:, :, 0] / root
    if slack == 0:
        return mu
    along = problem.constants.slack_a * total / (mass.clamp_min(torch.finfo(gram.dtype).tiny) * (1 + slack) * slack)
    return mu + along
