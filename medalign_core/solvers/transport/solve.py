"""One call: checks the problem, runs the method on its smaller side, and wraps the potentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medalign_core.solvers.transport import host
from medalign_core.solvers.transport.backends import Solved, runs_compiled, solve_compiled, with_columns_smaller
from medalign_core.solvers.transport.batching import solve_in_chunks
from medalign_core.solvers.transport.gradients import PlanOfCost, ValueOfCost
from medalign_core.solvers.transport.newton import newton
from medalign_core.solvers.transport.outcome import Outcome
from medalign_core.solvers.transport.plans import value_and_mass
from medalign_core.solvers.transport.problem import Constants, Problem, read_problem
from medalign_core.solvers.transport.result import Transport
from medalign_core.solvers.transport.scaling import sweep
from medalign_core.solvers.transport.status import Status

if TYPE_CHECKING:
    from medalign_core.solvers.sinkhorn import Sinkhorn

DEFAULT_ITERATIONS = {"newton": (100, 16), "sinkhorn": (2000, 200), "translation_invariant": (2000, 200)}


def solve(
    settings: Sinkhorn,
    cost: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    *,
    valid_a: Tensor | None,
    valid_b: Tensor | None,
) -> Transport:
    """Solve as the settings say; see `Sinkhorn.__call__`."""
    problem = read(settings, cost, a, b, valid_a=valid_a, valid_b=valid_b)
    if settings.method in ("exact", "mm"):
        from medalign_core.solvers.transport.without_entropy import solve_without_entropy

        return solve_without_entropy(problem, settings)
    if settings.gradient == "unroll":
        from medalign_core.solvers.transport.unrolled import solve_unrolled

        return solve_unrolled(problem, settings)
    return _wrap(problem, find_potentials(problem, settings), settings)


def read(settings: Sinkhorn, cost: Tensor, a: Tensor | None, b: Tensor | None, **valid: Tensor | None) -> Problem:
    """Return the checked problem with the settings' constants."""
    rho_a, rho_b = settings.both_rho
    return read_problem(
        cost,
        a,
        b,
        valid_a=valid["valid_a"],
        valid_b=valid["valid_b"],
        constants=Constants(
            epsilon=float(settings.epsilon), rho_a=rho_a, rho_b=rho_b, counting=settings.reference == "counting"
        ),
    )


def find_potentials(problem: Problem, settings: Sinkhorn) -> Solved:
    """Run the method on the smaller side's dual, by the compiled kernels where the settings and the problem allow."""
    tall, transposed = with_columns_smaller(problem)
    limits = DEFAULT_ITERATIONS[settings.method]
    default = limits[0] if host.may_read(problem.cost) else limits[1]
    most = default if settings.max_iterations is None else settings.max_iterations
    with torch.no_grad():
        if runs_compiled(tall, settings):
            outcome = solve_compiled(tall, tol=settings.tol, max_iterations=most)
            return Solved(tall, transposed, outcome, "compiled")
        if settings.method == "newton":
            algorithm = partial(newton, tol=settings.tol, max_iterations=most)
        else:
            shifted = settings.method == "translation_invariant"
            algorithm = partial(sweep, tol=settings.tol, max_sweeps=most, shifted=shifted)
        return Solved(tall, transposed, _mark(solve_in_chunks(tall, algorithm), tall), "torch")


def _mark(outcome: Outcome, problem: Problem) -> Outcome:
    if problem.failed is None:
        return outcome
    status = torch.where(problem.failed, int(Status.FAILED), outcome.status)
    return replace(outcome, status=status, residual=torch.where(problem.failed, torch.nan, outcome.residual))


def _wrap(problem: Problem, solved: Solved, settings: Sinkhorn) -> Transport:
    outcome, detached = solved.outcome, solved.detached()
    value, mass = value_and_mass(solved.tall, outcome.f, outcome.g)
    if problem.cost.requires_grad and torch.is_grad_enabled():
        value = ValueOfCost.apply(problem.cost, detached, value)
    make_plan: Callable[[], Tensor]
    if settings.gradient == "implicit":
        make_plan = partial(PlanOfCost.apply, problem.cost, detached)
    else:
        make_plan = detached.plan
    seen = outcome.transposed() if solved.transposed else outcome
    return Transport(**vars(seen), value=value, mass=mass, backend=solved.backend, make_plan=make_plan)
