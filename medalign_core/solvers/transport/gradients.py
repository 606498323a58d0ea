"""Autograd shells: the value's envelope gradient and the plan's implicit one. Nothing is saved per iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medalign_core.solvers.transport.backends import Solved


class ValueOfCost(torch.autograd.Function):
    """V as a function of C: dV/dC = T exactly (envelope theorem: f and g are optimal, so they may stay fixed)."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, solved: Solved, value: Tensor) -> Tensor:
        """Return `value`; the plan is made again when its gradient is asked for."""
        ctx.solved = solved.detached()
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return grad * T."""
        return ctx.solved.plan() * grad[:, None, None], None, None


class ValueOfPlan(torch.autograd.Function):
    """V as a function of C, where the plan was kept."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, plan: Tensor, value: Tensor) -> Tensor:
        """Return `value`."""
        ctx.save_for_backward(plan)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return grad * T."""
        (plan,) = ctx.saved_tensors
        return plan * grad[:, None, None], None, None


class PlanOfCost(torch.autograd.Function):
    """T as a function of C, differentiated implicitly (see `plan_backward`)."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, solved: Solved) -> Tensor:
        """Return the plan and save it, O(P M N)."""
        plan = solved.plan()
        ctx.solved = solved.detached()
        ctx.save_for_backward(plan)
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient by the cost."""
        (plan,) = ctx.saved_tensors
        return ctx.solved.plan_backward(plan, grad), None
