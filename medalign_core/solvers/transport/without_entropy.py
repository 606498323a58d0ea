"""Plans without entropy, by POT: exact balanced transport and unregularised unbalanced transport, one after another."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from medalign_core.solvers.transport.gradients import ValueOfPlan
from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.result import Transport
from medalign_core.solvers.transport.status import Status

if TYPE_CHECKING:
    from medalign_core.solvers.sinkhorn import Sinkhorn

DEFAULT_STEPS = 10000
STRIDE = 100  # steps between two looks at the residual


class Found(NamedTuple):
    """One problem's plan over live atoms, potentials, and how it ended."""

    plan: np.ndarray
    f: np.ndarray
    g: np.ndarray
    value: float
    status: Status
    iterations: int
    residual: float


def solve_without_entropy(problem: Problem, settings: Sinkhorn) -> Transport:
    """Solve min <T, C> with T 1 = a, T' 1 = b ("exact", network simplex), or with KL penalties ("mm").

    "mm" is the majorisation-minimisation of Chapel et al. (2021), from a b'. The plan is computed on the CPU in float64
    and kept. It is a constant for autograd, while the value has the envelope gradient T.
    """
    most = DEFAULT_STEPS if settings.max_iterations is None else settings.max_iterations
    arrays = [x.detach().cpu().double().numpy() for x in (problem.cost, problem.a, problem.b)]
    failed = np.zeros(len(arrays[0]), bool) if problem.failed is None else problem.failed.cpu().numpy()
    plan, f, g = (np.zeros_like(x) for x in arrays)
    numbers = np.zeros((4, len(f)))
    for at, (cost, a, b) in enumerate(zip(*arrays, strict=True)):
        if failed[at]:
            numbers[:, at] = np.nan, Status.FAILED, 0, np.nan
            continue
        live = np.ix_(a > 0, b > 0)
        parts = np.ascontiguousarray(cost[live]), a[a > 0], b[b > 0]
        found = _exact(*parts) if settings.method == "exact" else _mm(*parts, problem, most, settings.tol)
        plan[at][live], f[at][a > 0], g[at][b > 0] = found.plan, found.f, found.g
        numbers[:, at] = found.value, found.status, found.iterations, found.residual
    like = problem.cost.detach()
    kept, f_out, g_out, table = (torch.as_tensor(x).to(like) for x in (plan, f, g, numbers))
    return Transport(
        f=f_out,
        g=g_out,
        value=ValueOfPlan.apply(problem.cost, kept, table[0]),
        mass=kept.sum(dim=(1, 2)),
        status=table[1].to(torch.int32),
        iterations=table[2].to(torch.int32),
        residual=table[3],
        backend="pot",
        make_plan=lambda: kept,
    )


def _exact(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> Found:
    import ot

    b = b * (a.sum() / b.sum())  # masses that agree to float32 only; POT wants more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it would warn of is in the status
        plan, log = ot.emd(a, b, cost, log=True)
    residual = float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())
    status = Status.CONVERGED if log["result_code"] == 1 else Status.ITERATION_LIMIT
    return Found(plan, log["u"], log["v"], float((plan * cost).sum()), status, 0, residual)


def _mm(cost: np.ndarray, a: np.ndarray, b: np.ndarray, problem: Problem, most: int, tol: float) -> Found:
    """Step from a b' until one more step moves T by no more than tol: that is the residual. f = -rho_a log(T 1 / a)."""
    import ot

    rho = problem.constants.rho_a, problem.constants.rho_b
    plan, residual, steps = a[:, None] * b[None, :], np.inf, 0
    while residual > tol and steps < most:  # POT's own log would keep every plan on the way
        part = min(STRIDE, most - steps)
        before = ot.unbalanced.mm_unbalanced(a, b, cost, rho, G0=plan, numItermax=part, stopThr=0.0)
        plan = ot.unbalanced.mm_unbalanced(a, b, cost, rho, G0=before, numItermax=1, stopThr=0.0)
        residual, steps = float(np.abs(plan - before).sum()), steps + part
    rows, columns = plan.sum(1), plan.sum(0)
    value = (plan * cost).sum() + rho[0] * _kl(rows, a) + rho[1] * _kl(columns, b)
    f, g = (
        -strength * np.log(np.maximum(mass, np.finfo(float).tiny) / weight)
        for strength, mass, weight in ((rho[0], rows, a), (rho[1], columns, b))
    )
    status = Status.CONVERGED if residual <= tol else Status.ITERATION_LIMIT
    return Found(plan, f, g, float(value), status, steps, residual)


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(np.maximum(p, np.finfo(float).tiny) / q) - p + q).sum())
