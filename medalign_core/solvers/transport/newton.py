"""Newton's method on the reduced dual, for many problems at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.solvers.transport import host
from medalign_core.solvers.transport.evaluation import (
    Columns,
    Rows,
    column_share,
    evaluate_columns,
    evaluate_rows,
    gram,
)
from medalign_core.solvers.transport.outcome import Evaluation, Outcome, Progress, settle
from medalign_core.solvers.transport.problem import Constants
from medalign_core.solvers.transport.reduced import Reduced

DAMPING = 0.15  # Levenberg's lambda over the relative residual: measured, fewest steps for eps in [0.005, 0.05]
LOOSE = 0.1  # no damping from here on: what is left of the system's null space needs none
OVERSHOOT = 0.8  # a step is taken back when the slope at its end is positive and above this share of the first one


@dataclass(frozen=True)
class Step:
    """The step that led to the current point.

    Attributes:
        origin: the evaluation where it started.
        gram: A there.
        direction: by how much it moved x; 0 before the first step.
        slope: minus the directional derivative at the origin, > 0; inf before the first step, so that it is accepted.
    """

    origin: Columns
    gram: Float[Tensor, "P N N"]
    direction: Float[Tensor, "P N"]
    slope: Float[Tensor, "P 1"]

    def take(self, rows: Tensor) -> Step:
        """Return some of the problems."""
        return Step(_take(self.origin, rows), self.gram[rows], self.direction[rows], self.slope[rows])


def newton(reduced: Reduced, *, tol: float, max_iterations: int) -> Outcome:
    """Solve a chunk by damped Newton steps on the fixed-point equation x = T(x) of Sinkhorn's map.

    T_n(x) = -tau_b log(t_n / b_n) has the Jacobian tau_a tau_b S with S = diag(1/c) P' diag(1/r) P row-stochastic, so a
    step solves the symmetric positive definite N x N system
        (diag(c) - tau_a tau_b P' diag(1/r) P + c c' / sum c + lambda diag(c)) d = c (T(x) - x).
    Written for log c rather than for c the equation is nearly linear, which is why few steps suffice. c c' pins the
    common shift, which is solved in closed form at every evaluation. lambda, for wide problems only, falls with the
    residual, so convergence stays quadratic. A step that overshoots along d (the slope at its end is positive and not
    small) is taken back to the zero of the cubic through both slopes and curvatures; the dual is convex, so that zero
    lies between.

    On the CPU the loop ends with the last problem, and finished ones leave the batch. On another device it runs
    max_iterations times under masks: nothing is read back, so the host never waits.

    Args:
        reduced: the chunk.
        tol: residual at which a problem has converged.
        max_iterations: most steps of a problem.
    """
    out = Outcome.empty(reduced.room.transpose(1, 2))
    x = torch.zeros_like(reduced.log_b)
    progress, step = Progress.start(x, falling=0.9), None
    for iteration in range(max_iterations + 1):
        last = iteration == max_iterations
        rows = evaluate_rows(reduced, x)
        # A is the dearest part: from the third point on, first see who needs it
        a: Tensor | None = None
        if iteration >= 2:
            c, log_mass = column_share(rows)
        else:
            a, log_mass = gram(reduced, rows)
            c = a.sum(dim=2)
        columns = evaluate_columns(reduced, x, c, log_mass)
        count = settle(out, progress, Evaluation(reduced, rows, columns, iteration), tol=tol, last=last)
        if last or count == 0:
            break
        if count is not None and 2 * count <= len(x):
            running = progress.running.nonzero()[:, 0]
            reduced, rows = _take_rows(reduced, rows, running)
            progress, columns = progress.take(running), _take(columns, running)
            a, step = a if a is None else a[running], step and step.take(running)
        step = _next_step(reduced, columns, gram(reduced, rows)[0] if a is None else a, step)
        x = step.origin.x + step.direction
    return out


def _take_rows(reduced: Reduced, rows: Rows, running: Tensor) -> tuple[Reduced, Rows]:
    part = reduced.take(running)
    if part.kernel is None:
        part = replace(part, room=rows.q[running])
    return part, rows.take(running, q=part.room if part.kernel is None else part.kernel)


def _take(columns: Columns, rows: Tensor) -> Columns:
    return Columns(*(value[rows] for value in vars(columns).values()))


def _next_step(reduced: Reduced, columns: Columns, a: Tensor, step: Step | None) -> Step:
    """Return a Newton step from here, or a shorter one from the last origin where the last step was too long."""
    direction = _newton_direction(reduced, columns, a)
    new = Step(columns, a, direction, _slope(columns, direction).abs())
    if step is None:
        return new
    slope = _slope(columns, step.direction)
    too_long = slope > OVERSHOOT * step.slope
    if host.may_read(too_long) and not bool(too_long.any()):
        return new
    start = _curvature(reduced.constants, step.origin, step.gram, step.direction)
    end = _curvature(reduced.constants, columns, a, step.direction)
    part = _zero_of_cubic((step.slope, start), (slope, end))
    old = Step(step.origin, step.gram, step.direction * part, step.slope * part)
    return _choose(too_long, old, new)


def _choose(first: Tensor, old: Step, new: Step) -> Step:
    """Return `old` where `first`, else `new`."""

    def pick(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(first.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    origin = Columns(*map(pick, vars(old.origin).values(), vars(new.origin).values()))
    return Step(origin, pick(old.gram, new.gram), pick(old.direction, new.direction), pick(old.slope, new.slope))


def _slope(columns: Columns, direction: Tensor) -> Tensor:
    """Return the derivative along `direction` of the log of the dual, less its common shift; convex like the dual."""
    return ((columns.c - columns.target) * direction).sum(dim=1, keepdim=True)


def _newton_direction(reduced: Reduced, columns: Columns, a: Tensor) -> Tensor:
    """Solve (I - tau_a tau_b S + ...) d = T(x) - x: rows divided by c, so that columns of tiny mass do no harm."""
    constants, limits = reduced.constants, torch.finfo(a.dtype)
    c, fixed_point = columns.c.clamp_min(limits.tiny), columns.fixed_point
    right = fixed_point - (columns.c * fixed_point).sum(dim=1, keepdim=True)  # c sums to 1
    matrix = (a / c[:, :, None]).mul_(-constants.tau_a * constants.tau_b).add_(columns.c[:, None, :])
    ridge: Tensor | float = 1 + 16 * limits.eps
    looseness = constants.slack_a + constants.slack_b  # about 1 - tau_a tau_b, the least eigenvalue without damping
    if reduced.exponent is not None and looseness < LOOSE:
        ridge = ridge + DAMPING * (1 - looseness / LOOSE) * (columns.c - columns.target).abs().sum(dim=1, keepdim=True)
    matrix.diagonal(dim1=1, dim2=2).add_(ridge)
    direction, info = torch.linalg.solve_ex(matrix, right)
    if host.may_read(info) and not bool(info.any()):
        return direction
    return torch.where((info == 0)[:, None], direction, fixed_point)  # a sweep, which always descends


def _curvature(constants: Constants, columns: Columns, a: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of `_slope` along `direction`."""
    along = torch.bmm(a, direction[:, :, None])[:, :, 0]
    mean_c, mean_target = ((weight * direction).sum(dim=1, keepdim=True) for weight in (columns.c, columns.target))
    of_plan = (columns.c * direction.square() - constants.tau_a * direction * along).sum(dim=1, keepdim=True)
    of_target = (columns.target * (direction - mean_target).square()).sum(dim=1, keepdim=True)
    return of_plan - constants.slack_a * mean_c.square() + (constants.epsilon / constants.rho_b) * of_target


def _zero_of_cubic(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """Return where in [0.1, 0.8] of a step its slope is 0, by the cubic through (-slope, curvature) and at its end."""
    t = torch.linspace(0.1, 0.8, 15, dtype=start[0].dtype, device=start[0].device)
    value = (
        -(2 * t**3 - 3 * t**2 + 1) * start[0]
        + (t**3 - 2 * t**2 + t) * start[1]
        + (3 * t**2 - 2 * t**3) * end[0]
        + (t**3 - t**2) * end[1]
    )
    return t[value.abs().nan_to_num(nan=torch.inf).argmin(dim=1)][:, None]
