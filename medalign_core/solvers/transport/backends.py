"""Solved problems, and the choice between the torch path and the compiled kernels for each thing done with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.solvers.transport.outcome import MARGIN, Outcome
from medalign_core.solvers.transport.plans import plan_backward, plan_of
from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.status import Status

if TYPE_CHECKING:
    from medalign_core.solvers.sinkhorn import Sinkhorn

WIDEST = 32  # columns that the compiled kernels take


@dataclass(frozen=True)
class Solved:
    """A problem with its smaller side in columns, its potentials, and how it was solved.

    Attributes:
        tall: the problem.
        transposed: whether the caller's rows are its columns.
        outcome: of the tall problem.
        backend: "torch" or "compiled"; what follows takes the same.
    """

    tall: Problem
    transposed: bool
    outcome: Outcome
    backend: str

    def detached(self) -> Solved:
        """Return it without the graph that made its cost."""
        return replace(self, tall=replace(self.tall, cost=self.tall.cost.detach()))

    def forgetful(self) -> Forgetful:
        """Return what is needed to know it again from its problem."""
        return Forgetful(self.outcome, self.backend)

    def plan(self) -> Float[Tensor, "P M N"]:
        """Return the caller's plan, a constant; 0 where the problem failed."""
        plan = _plan(self)
        return plan.transpose(1, 2) if self.transposed else plan

    def plan_backward(self, plan: Float[Tensor, "P M N"], grad: Float[Tensor, "P M N"]) -> Float[Tensor, "P M N"]:
        """Return the gradient of <grad, plan> by the caller's cost."""
        if not self.transposed:
            return _plan_backward(self, plan, grad)
        return _plan_backward(self, plan.transpose(1, 2), grad.transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class Forgetful:
    """A solved problem without its cost."""

    outcome: Outcome
    backend: str

    def of(self, problem: Problem) -> Solved:
        """Return the solved problem, given the problem again."""
        return Solved(*with_columns_smaller(problem), self.outcome, self.backend)


def with_columns_smaller(problem: Problem) -> tuple[Problem, bool]:
    """Return the problem with its smaller side in columns, and whether that took a transposition."""
    if problem.cost.shape[1] < problem.cost.shape[2]:
        return problem.transposed(), True
    return problem, False


def runs_compiled(tall: Problem, settings: Sinkhorn) -> bool:
    """Return whether the compiled kernels solve this problem.

    Raises:
        ValueError: backend="compiled" where they cannot, with the reason.
    """
    if settings.backend == "torch" or settings.method != "newton":
        return False
    if tall.constants.counting:
        reason = 'reference="counting"'
    elif tall.cost.device.type != "cpu":
        reason = f"a cost on {tall.cost.device}"
    elif tall.cost.shape[2] > WIDEST:
        reason = f"{tall.cost.shape[2]} atoms on the smaller side (at most {WIDEST})"
    elif find_spec("numba") is None:
        reason = "an installation without numba"
    else:
        return len(tall.cost) > 0
    if settings.backend == "compiled":
        raise ValueError(f'backend="compiled" does not take {reason}; "auto" takes the torch path there.')
    return False


def solve_compiled(tall: Problem, *, tol: float, max_iterations: int) -> Outcome:
    """Solve by the compiled Newton kernels, on as many threads as torch uses."""
    from medalign_core.solvers.transport import compiled

    constants = tall.constants
    arrays = (x.detach().numpy() for x in (tall.cost, tall.a, tall.b))
    f, g, iterations, residual, status = compiled.solve(
        *arrays,
        epsilon=constants.epsilon,
        rho_a=constants.rho_a,
        rho_b=constants.rho_b,
        tol=MARGIN * tol,
        max_iterations=max_iterations,
        threads=torch.get_num_threads(),
    )
    status = np.where((residual <= tol) & (status != Status.FAILED), int(Status.CONVERGED), status)
    return Outcome(*(torch.from_numpy(x) for x in (f, g, residual, iterations, status.astype(np.int32))))


def _plan(solved: Solved) -> Float[Tensor, "P M N"]:
    """Return the plan of the tall problem, 0 where it failed."""
    tall, outcome = solved.tall, solved.outcome
    if solved.backend == "torch":
        return plan_of(tall, outcome.g)
    from medalign_core.solvers.transport import compiled

    arrays = (x.detach().numpy() for x in (tall.cost, tall.a, tall.b, outcome.f, outcome.g))
    return _tensor(compiled.plan(*arrays, epsilon=tall.constants.epsilon, threads=torch.get_num_threads()))


def _plan_backward(
    solved: Solved, plan: Float[Tensor, "P M N"], grad: Float[Tensor, "P M N"]
) -> Float[Tensor, "P M N"]:
    """Return the gradient of <grad, T> by the cost of the tall problem."""
    constants = solved.tall.constants
    if solved.backend == "torch":
        return plan_backward(solved.tall, plan, grad)
    from medalign_core.solvers.transport import compiled

    result = compiled.plan_backward(
        plan.detach().numpy(),
        grad.detach().numpy(),
        epsilon=constants.epsilon,
        rho_a=constants.rho_a,
        rho_b=constants.rho_b,
        threads=torch.get_num_threads(),
    )
    return _tensor(result)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
