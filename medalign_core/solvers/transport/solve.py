"""One call: checks the problem, runs the method on its smaller side, and wraps the potentials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.solvers.transport.batching import solve_in_chunks
from medalign_core.solvers.transport.gradients import PlanOfCost, ValueOfCost
from medalign_core.solvers.transport.newton import newton
from medalign_core.solvers.transport.outcome import Outcome
from medalign_core.solvers.transport.plans import dual_value, plan_of, row_mass
from medalign_core.solvers.transport.problem import Constants, Problem, read_problem
from medalign_core.solvers.transport.result import Transport
from medalign_core.solvers.transport.scaling import sweep
from medalign_core.solvers.transport.status import Status

if TYPE_CHECKING:
    from medalign_core.solvers.sinkhorn import Sinkhorn

DEFAULT_ITERATIONS = {"newton": (100, 16), "sinkhorn": (2000, 200), "translation_invariant": (2000, 200)}


def solve(
    settings: Sinkhorn,
    cost: Float[Tensor, "P M N"],
    a: Tensor | None,
    b: Tensor | None,
    *,
    valid_a: Bool[Tensor, "P M"] | None,
    valid_b: Bool[Tensor, "P N"] | None,
) -> Transport:
    """Solve as the settings say; see `Sinkhorn.__call__`."""
    problem = read(settings, cost, a, b, valid_a=valid_a, valid_b=valid_b)
    if settings.method in ("exact", "mm"):
        from medalign_core.solvers.transport.without_entropy import solve_without_entropy

        return solve_without_entropy(problem, settings)
    if settings.gradient == "unroll":
        from medalign_core.solvers.transport.unrolled import solve_unrolled

        return solve_unrolled(problem, settings)
    return _wrap(find_potentials(problem, settings), settings)


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


@dataclass(frozen=True)
class Solved:
    """A problem with its smaller side in columns, its outcome, and whether that took a transposition."""

    tall: Problem
    outcome: Outcome
    transposed: bool
    backend: str


def find_potentials(problem: Problem, settings: Sinkhorn) -> Solved:
    """Run the method on the smaller side's dual."""
    transposed = problem.cost.shape[1] < problem.cost.shape[2]
    tall = problem.transposed() if transposed else problem
    limits = DEFAULT_ITERATIONS[settings.method]
    default = limits[0] if problem.cost.device.type == "cpu" else limits[1]
    most = default if settings.max_iterations is None else settings.max_iterations
    if settings.method == "newton":
        algorithm = partial(newton, tol=settings.tol, max_iterations=most)
    else:
        shifted = settings.method == "translation_invariant"
        algorithm = partial(sweep, tol=settings.tol, max_sweeps=most, shifted=shifted)
    with torch.no_grad():
        return Solved(tall, _mark(solve_in_chunks(tall, algorithm), tall), transposed, "torch")


def _mark(outcome: Outcome, problem: Problem) -> Outcome:
    if problem.failed is None:
        return outcome
    status = torch.where(problem.failed, int(Status.FAILED), outcome.status)
    return replace(outcome, status=status, residual=torch.where(problem.failed, torch.nan, outcome.residual))


def _wrap(solved: Solved, settings: Sinkhorn) -> Transport:
    tall, outcome = solved.tall, solved.outcome
    mass = row_mass(tall, outcome.f).sum(dim=1)
    value = dual_value(tall, outcome.f, outcome.g, mass)
    if tall.failed is not None:
        value, mass = torch.where(tall.failed, torch.nan, value), torch.where(tall.failed, 0.0, mass)
    if tall.cost.requires_grad and torch.is_grad_enabled():
        value = ValueOfCost.apply(tall.cost, tall, outcome.g, value)
    seen = outcome.transposed() if solved.transposed else outcome
    return Transport(
        **vars(seen),
        value=value,
        mass=mass,
        backend=solved.backend,
        make_plan=partial(_plan, solved, implicit=settings.gradient == "implicit"),
    )


def _plan(solved: Solved, *, implicit: bool) -> Tensor:
    tall, g = solved.tall, solved.outcome.g
    plan = PlanOfCost.apply(tall.cost, tall, g) if implicit else plan_of(tall, g)
    return plan.transpose(1, 2) if solved.transposed else plan
