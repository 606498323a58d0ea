"""A batch of transport problems and the border where input is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32
from medalign_core.solvers.transport import host

LARGEST_EXPONENT = 1e30  # of |C| / epsilon: potentials and their sums stay far from the overflow of float32
SMALLEST_MASS, LARGEST_MASS = 1e-15, 1e15  # of a side: the product of both must be a number in float32
MASS_TOLERANCE = 1e-4  # relative; a balanced problem whose two masses differ by more has no plan


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The numbers of the objective.

    Attributes:
        epsilon: > 0.
        rho_a: in (0, inf]; inf makes T 1 = a a constraint.
        rho_b: in (0, inf].
        counting: the reference is the counting measure (1 on live atoms) rather than a b'.
    """

    epsilon: float
    rho_a: float
    rho_b: float
    counting: bool

    @property
    def tau_a(self) -> float:
        """rho_a / (rho_a + eps), 1 for a hard side."""
        return 1.0 - self.slack_a

    @property
    def tau_b(self) -> float:
        """rho_b / (rho_b + eps), 1 for a hard side."""
        return 1.0 - self.slack_b

    @property
    def slack_a(self) -> float:
        """1 - tau_a, without cancellation."""
        return self.epsilon / (self.rho_a + self.epsilon)

    @property
    def slack_b(self) -> float:
        """1 - tau_b, without cancellation."""
        return self.epsilon / (self.rho_b + self.epsilon)

    @property
    def is_balanced(self) -> bool:
        """Both sides are hard: the masses must agree, and f + k, g - k is as good as f, g."""
        return math.isinf(self.rho_a) and math.isinf(self.rho_b)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """min_T <T, C> + eps KL(T | reference) + rho_a KL(T 1 | a) + rho_b KL(T' 1 | b), for each of P problems.

    Attributes:
        cost: C, float32 or float64, finite. It may require a gradient; weights may not.
        a: row weights >= 0, 0 for an atom that is masked.
        b: column weights, likewise.
        span: (P,), max C - min C of each problem, over its live atoms at least.
        constants: eps, rho_a, rho_b and the reference.
        failed: (P,), problems without an answer, replaced by harmless ones; None where there are none.
    """

    cost: Float[Tensor, "P M N"]
    a: Float[Tensor, "P M"]
    b: Float[Tensor, "P N"]
    span: Float[Tensor, " P"]
    constants: Constants
    failed: Bool[Tensor, " P"] | None = None

    def transposed(self) -> Problem:
        """Return the same problems with rows and columns exchanged."""
        constants = replace(self.constants, rho_a=self.constants.rho_b, rho_b=self.constants.rho_a)
        return replace(self, cost=self.cost.transpose(1, 2), a=self.b, b=self.a, constants=constants)

    def take(self, rows: Tensor | slice) -> Problem:
        """Return some of the problems, without their gradient."""
        failed = None if self.failed is None else self.failed[rows]
        cost, a, b, span = (x[rows] for x in (self.cost.detach(), self.a, self.b, self.span))
        return replace(self, cost=cost, a=a, b=b, span=span, failed=failed)


def read_problem(
    cost: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    *,
    valid_a: Tensor | None,
    valid_b: Tensor | None,
    constants: Constants,
) -> Problem:
    """Return the checked problem in at least float32. Costs of masked atoms are ignored, whatever they hold.

    On the CPU a problem without an answer raises. On another device reading the answer would stop the host, so such
    problems are marked `failed` there.

    Args:
        cost: (P, M, N), C, any floating type.
        a: (P, M) or (M,), weights >= 0 with a positive sum; None is uniform over the valid rows with sum 1.
        b: (P, N) or (N,), likewise.
        valid_a: (P, M), True where the row exists.
        valid_b: (P, N), True where the column exists.
        constants: eps, rho_a, rho_b and the reference.

    Raises:
        ValueError: shapes that do not fit, weights that require a gradient, and (CPU) NaN, infinite or too large costs,
            negative or missing mass, unequal masses of a balanced problem.
        TypeError: a cost that is not floating.
    """
    if not cost.is_floating_point():
        raise TypeError(f"cost must be floating, got {cost.dtype}; call cost.float().")
    if cost.ndim != 3 or 0 in cost.shape[1:]:
        raise ValueError(f"cost must be (P, M, N) with M, N >= 1, got {tuple(cost.shape)}; one problem is cost[None].")
    cost = at_least_float32(cost)
    count, rows, columns = cost.shape
    weights = [
        _read_weights(weight, valid, name=name, like=cost, shape=(count, size))
        for weight, valid, name, size in ((a, valid_a, "a", rows), (b, valid_b, "b", columns))
    ]
    cost = _without_masked(cost, valid_a, valid_b)
    flat = cost.detach().reshape(count, rows * columns)
    low, high = flat.amin(dim=1), flat.amax(dim=1)  # an aminmax(dim=1) is 15 times slower than the two (torch 2.13)
    problem = Problem(cost=cost, a=weights[0], b=weights[1], span=high - low, constants=constants)
    extreme = torch.maximum(high.abs(), low.abs())
    if host.may_read(cost):
        _check(problem, extreme)
        return problem
    return _mark_failed(problem, extreme)


def _read_weights(
    weight: Tensor | None, valid: Tensor | None, *, name: str, like: Tensor, shape: tuple[int, int]
) -> Tensor:
    if valid is not None and valid.shape != shape:
        raise ValueError(f"valid_{name} must be {shape}, got {tuple(valid.shape)}.")
    if weight is None:
        if valid is None:
            return like.new_full((1, 1), 1 / shape[1]).expand(shape)
        kept = valid.to(like.dtype)
        return kept / kept.sum(dim=1, keepdim=True)
    if weight.requires_grad:
        raise ValueError(f"{name} requires a gradient, which is not supported; pass {name}.detach().")
    if weight.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} must be {shape} or {shape[1:]}, got {tuple(weight.shape)}.")
    weight = weight.to(like.dtype).expand(shape)
    return weight if valid is None else torch.where(valid, weight, 0.0)


def _without_masked(cost: Tensor, valid_a: Tensor | None, valid_b: Tensor | None) -> Tensor:
    """Set masked costs to 0, gradient included: padding may hold anything, NaN too."""
    if valid_a is not None:
        cost = torch.where(valid_a[:, :, None], cost, 0.0)
    return cost if valid_b is None else torch.where(valid_b[:, None, :], cost, 0.0)


def _check(problem: Problem, extreme: Tensor) -> None:
    if not len(extreme):
        return
    worst, at = (x.item() for x in torch.where(extreme.isnan(), torch.inf, extreme).max(dim=0))
    if not worst / problem.constants.epsilon <= LARGEST_EXPONENT:
        raise ValueError(
            f"cost of problem {at} is NaN, infinite or above {LARGEST_EXPONENT:g} * epsilon; "
            "mask such atoms with valid_a and valid_b, or rescale cost and epsilon together."
        )
    masses = []
    for name, weight in (("a", problem.a), ("b", problem.b)):
        total = weight.sum(dim=1)
        wrong = ~_has_mass(weight, total)
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"{name} of problem {first} must be >= 0 with a sum in [{SMALLEST_MASS:g}, {LARGEST_MASS:g}], got "
                f"{total[first]:g}; rescale the masses, or leave out problems in which every atom is masked."
            )
        masses.append(total)
    gap = ((masses[0] - masses[1]).abs() / masses[0]).max().item()
    if problem.constants.is_balanced and gap > MASS_TOLERANCE:
        raise ValueError(
            f"a and b must have the same mass where rho_a = rho_b = inf, they differ by {gap:.2g} of it; "
            "normalise them, or let one side be relaxed by a finite rho."
        )


def _has_mass(weight: Tensor, total: Tensor) -> Tensor:
    return (weight.amin(dim=1) >= 0) & (total >= SMALLEST_MASS) & (total <= LARGEST_MASS)  # False for NaN


def _mark_failed(problem: Problem, extreme: Tensor) -> Problem:
    """Replace problems without an answer by a constant cost and uniform weights, on the device."""
    totals = [weight.sum(dim=1) for weight in (problem.a, problem.b)]
    good = extreme / problem.constants.epsilon <= LARGEST_EXPONENT  # False for NaN
    for weight, total in zip((problem.a, problem.b), totals, strict=True):
        good = good & _has_mass(weight, total)
    if problem.constants.is_balanced:
        good = good & ((totals[0] - totals[1]).abs() <= MASS_TOLERANCE * totals[0])
    return replace(
        problem,
        cost=torch.where(good[:, None, None], problem.cost, 0.0),
        a=torch.where(good[:, None], problem.a, 1 / problem.a.shape[1]),
        b=torch.where(good[:, None], problem.b, 1 / problem.b.shape[1]),
        span=torch.where(good, problem.span, 0.0),
        failed=~good,
    )
