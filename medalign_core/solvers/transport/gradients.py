"""Autograd shells: the value's envelope gradient and the plan's implicit one. Nothing is saved per iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medalign_core.solvers.transport.plans import plan_backward, plan_of
from medalign_core.solvers.transport.problem import Problem


class ValueOfCost(torch.autograd.Function):
    """V as a function of C: dV/dC = T exactly (envelope theorem: f and g are optimal, so they may stay fixed)."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, problem: Problem, g: Tensor, value: Tensor) -> Tensor:
        """Return `value`; the plan is made again when its gradient is asked for."""
        ctx.problem = problem.take(slice(None))
        ctx.g = g
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return grad * T."""
        return plan_of(ctx.problem, ctx.g) * grad[:, None, None], None, None, None


class PlanOfCost(torch.autograd.Function):
    """T as a function of C, differentiated implicitly (see `plan_backward`)."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, problem: Problem, g: Tensor) -> Tensor:
        """Return the plan and save it, O(P M N)."""
        plan = plan_of(problem, g)
        ctx.problem = problem.take(slice(None))
        ctx.save_for_backward(plan)
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient by the cost."""
        (plan,) = ctx.saved_tensors
        return plan_backward(ctx.problem, plan, grad), None, None
