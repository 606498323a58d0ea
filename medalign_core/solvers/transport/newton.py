"""Newton's method on the reduced dual, for many problems at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.solvers.transport.outcome import Outcome, Progress
from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.reduced import (
    Columns,
    Reduced,
    evaluate_columns,
    evaluate_rows,
    gram,
    potentials,
)

DAMPING = 0.15  # times the relative residual: Levenberg's lambda; measured, fewest steps for eps in [0.005, 0.1]
OVERSHOOT = 0.8  # a step is taken back when the slope at its end is positive and above this share of the first one


@dataclass(frozen=True)
class Step:
    """The step that led to the current point.

    Attributes:
        origin: where it started.
        direction: by how much it moved x; 0 before the first step.
        slope: minus the directional derivative at the origin, > 0; inf before the first step, so that it is accepted.
        curvature: the second derivative along the direction at the origin.
    """

    origin: Float[Tensor, "P N"]
    direction: Float[Tensor, "P N"]
    slope: Float[Tensor, "P 1"]
    curvature: Float[Tensor, "P 1"]

    def take(self, rows: Tensor) -> Step:
        """Return some of the problems."""
        return Step(self.origin[rows], self.direction[rows], self.slope[rows], self.curvature[rows])


def newton(reduced: Reduced, *, tol: float, max_iterations: int) -> Outcome:
    """Solve a chunk by damped Newton steps on the fixed-point equation x = T(x) of Sinkhorn's map.

    T_n(x) = -tau_b log(t_n / b_n) has the Jacobian tau_a tau_b S, S = diag(1/c) P' diag(1/r) P row-stochastic, so a step
    solves the symmetric positive definite N x N system
        (diag(c) - tau_a tau_b P' diag(1/r) P + c c' / sum c + lambda diag(c)) d = c (T(x) - x).
    Written for log c rather than for c the equation is nearly linear, which is why few steps suffice. c c' pins the
    common shift, which is solved in closed form at every evaluation; lambda falls with the residual, so convergence
    stays quadratic. A step that overshoots along d (the slope at its end is positive and not small) is taken back to
    the zero of the cubic through both slopes and curvatures; the dual is convex, so that zero lies between.

    On the CPU the loop ends with the last problem, and finished ones leave the batch. On another device it runs
    max_iterations times under masks: nothing is read back, so the host never waits.

    Args:
        reduced: the chunk.
        tol: residual at which a problem has converged.
        max_iterations: most steps of a problem.
    """
    problem = reduced.problem
    out, on_host = Outcome.empty(problem), problem.cost.device.type == "cpu"
    x = torch.zeros_like(reduced.log_b)
    nothing = x.new_full((len(x), 1), torch.inf)
    step, progress = Step(x, torch.zeros_like(x), nothing, nothing), Progress.start(x)
    place = torch.arange(len(x), device=x.device)
    for iteration in range(max_iterations + 1):
        rows = evaluate_rows(reduced, x)
        a = gram(reduced, rows)
        columns = evaluate_columns(reduced, x, rows, a.sum(dim=2))
        mass = columns.log_mass[:, 0].exp()
        ends = progress.update(columns.residual, mass=mass, tol=tol, last=iteration == max_iterations)
        store_ended(out, reduced, columns, rows.log_z, progress, ends=ends, place=place, iteration=iteration)
        if iteration == max_iterations or (on_host and bool((progress.status >= 0).all())):
            break
        step = _next_step(reduced.problem, columns, a, step)
        x = step.origin + step.direction
        if on_host:
            running = (progress.status < 0).nonzero()[:, 0]
            if 2 * len(running) <= len(x):
                reduced, x, step = reduced.take(running), x[running], step.take(running)
                progress, place = progress.take(running), place[running]
    return out


def store_ended(
    out: Outcome,
    reduced: Reduced,
    columns: Columns,
    log_z: Tensor,
    progress: Progress,
    *,
    ends: Tensor,
    place: Tensor,
    iteration: int,
) -> None:
    """Write the problems that end here."""
    if log_z.device.type == "cpu" and not bool(ends.any()):
        return None
    f, g = potentials(reduced, columns.x, log_z + columns.shift)
    if f.device.type == "cpu":
        count = torch.full_like(progress.status, iteration)
        part = Outcome(f, g, columns.residual, count, progress.status)
        if bool(ends.all()):
            return out.store(place, part)
        return out.store(place[ends], Outcome(*(value[ends] for value in vars(part).values())))
    for name, value in (("f", f), ("g", g), ("residual", columns.residual), ("status", progress.status)):
        kept = getattr(out, name)
        kept.copy_(torch.where(ends[:, None] if value.ndim == 2 else ends, value, kept))
    out.iterations.copy_(torch.where(ends, iteration, out.iterations))
    return None


def _next_step(problem: Problem, columns: Columns, a: Tensor, step: Step) -> Step:
    """Return a Newton step from here, or a shorter one from the last origin where the last step was too long."""
    gradient = columns.c - columns.target  # of the log of the dual: convex along with it
    slope = (gradient * step.direction).sum(dim=1, keepdim=True)
    too_long = slope > OVERSHOOT * step.slope
    direction = _newton_direction(problem, columns, a)
    new = Step(
        origin=columns.x,
        direction=direction,
        slope=(gradient * direction).sum(dim=1, keepdim=True).abs(),
        curvature=_curvature(problem, columns, a, direction),
    )
    if too_long.device.type == "cpu" and not bool(too_long.any()):
        return new
    end = replace(step, slope=slope, curvature=_curvature(problem, columns, a, step.direction))
    part = _zero_of_cubic(step, end)
    old = Step(step.origin, step.direction * part, step.slope * part, step.curvature * part.square())
    return Step(*(torch.where(too_long, x, y) for x, y in zip(vars(old).values(), vars(new).values(), strict=True)))


def _newton_direction(problem: Problem, columns: Columns, a: Tensor) -> Tensor:
    """Solve the N x N system, scaled by 1/sqrt(c) on both sides so that columns of tiny mass do no harm."""
    c, eps = columns.c.clamp_min(torch.finfo(a.dtype).tiny), torch.finfo(a.dtype).eps
    root = c.sqrt()
    right = columns.fixed_point - (c * columns.fixed_point).sum(dim=1, keepdim=True)  # c sums to 1
    scale = root[:, :, None] * root[:, None, :]
    matrix = scale - (problem.tau_a * problem.tau_b) * (a / scale)
    relative = (columns.c - columns.target).abs().sum(dim=1, keepdim=True)
    matrix.diagonal(dim1=1, dim2=2).add_(1 + 16 * eps + DAMPING * relative)
    factor = torch.linalg.cholesky_ex(matrix)[0]
    direction = torch.cholesky_solve((root * right)[:, :, None], factor)[:, :, 0] / root
    return torch.where(torch.isfinite(direction), direction, columns.fixed_point)


def _curvature(problem: Problem, columns: Columns, a: Tensor, direction: Tensor) -> Tensor:
    """Return the second derivative of the log of the dual along `direction`."""
    along = torch.bmm(a, direction[:, :, None])[:, :, 0]
    mean_c, mean_target = ((weight * direction).sum(dim=1, keepdim=True) for weight in (columns.c, columns.target))
    of_plan = (columns.c * direction.square() - problem.tau_a * direction * along).sum(dim=1, keepdim=True)
    of_target = (columns.target * (direction - mean_target).square()).sum(dim=1, keepdim=True)
    return of_plan - problem.slack_a * mean_c.square() + (problem.epsilon / problem.rho_b) * of_target


def _zero_of_cubic(start: Step, end: Step) -> Tensor:
    """Return where in [0.1, 0.8] of a step the slope is 0, by the cubic through slopes and curvatures at both ends."""
    t = torch.linspace(0.1, 0.8, 15, dtype=start.slope.dtype, device=start.slope.device)
    value = (
        -(2 * t**3 - 3 * t**2 + 1) * start.slope
        + (t**3 - 2 * t**2 + t) * start.curvature
        + (3 * t**2 - 2 * t**3) * end.slope
        + (t**3 - t**2) * end.curvature
    )
    return t[value.abs().nan_to_num(nan=torch.inf).argmin(dim=1)][:, None]
