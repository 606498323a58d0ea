"""What an algorithm hands back, filled in as problems finish, and the bookkeeping of who has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medalign_core.solvers.transport import host
from medalign_core.solvers.transport.evaluation import Columns, Rows, potentials
from medalign_core.solvers.transport.reduced import Reduced
from medalign_core.solvers.transport.status import Status

PATIENCE = 3  # evaluations
MARGIN = 0.5  # of tol is aimed at: the rows' equations hold but for rounding, which needs room in float32


@dataclass(frozen=True)
class Outcome:
    """Potentials and how they were found, per problem.

    Attributes:
        f: row potentials, 0 for atoms without weight.
        g: column potentials, likewise.
        residual: L1 error of the marginals' fixed-point equations.
        iterations: steps taken.
        status: a Status each.
    """

    f: Float[Tensor, "P M"]
    g: Float[Tensor, "P N"]
    residual: Float[Tensor, " P"]
    iterations: Int[Tensor, " P"]
    status: Int[Tensor, " P"]

    @classmethod
    def empty(cls, like: Float[Tensor, "P M N"]) -> Outcome:
        """Return room for the outcome of every problem whose cost has this shape, dtype and device."""
        count, rows, columns = like.shape
        with torch.no_grad():
            return cls(
                f=like.new_zeros(count, rows),
                g=like.new_zeros(count, columns),
                residual=like.new_zeros(count),
                iterations=torch.zeros(count, dtype=torch.int32, device=like.device),
                status=torch.zeros(count, dtype=torch.int32, device=like.device),
            )

    def store(self, at: Tensor | slice, part: Outcome) -> None:
        """Write the outcome of some problems to their places."""
        for name, value in vars(part).items():
            getattr(self, name)[at] = value

    def transposed(self) -> Outcome:
        """Return the outcome of the problems with rows and columns exchanged."""
        return Outcome(self.g, self.f, self.residual, self.iterations, self.status)


@dataclass
class Progress:
    """Which problems of a chunk still run. An answer never depends on neighbours: each problem has its own clock.

    Attributes:
        running: those without an outcome.
        place: their place in the chunk.
        best: their smallest residual so far.
        stale: evaluations since it last fell.
        falling: the share of `best` that counts as a fall: 1 for a method that may converge slowly.
    """

    running: Bool[Tensor, " P"]
    place: Int[Tensor, " P"]
    best: Float[Tensor, " P"]
    stale: Int[Tensor, " P"]
    falling: float

    @classmethod
    def start(cls, like: Float[Tensor, "P N"], *, falling: float) -> Progress:
        """Return the bookkeeping of problems none of which has been evaluated."""
        count, device = len(like), like.device
        running = torch.ones(count, dtype=torch.bool, device=device)
        place = torch.arange(count, device=device)
        return cls(running, place, like.new_full((count,), torch.inf), torch.zeros_like(place), falling)

    def take(self, rows: Tensor) -> Progress:
        """Return some of the problems."""
        return Progress(self.running[rows], self.place[rows], self.best[rows], self.stale[rows], self.falling)

    def update(self, columns: Columns, *, tol: float, iteration: int, last: bool) -> Bool[Tensor, " P"]:
        """Judge the residuals of new points and return the problems that end with them.

        A problem has stalled when its residual no longer falls although it is small: at once where it is below what
        rounding x leaves of it (half a unit in the last place of x is that much of each mass), after PATIENCE
        evaluations where it is merely below the root of the dtype's precision.
        """
        residual = columns.residual
        ends = residual <= MARGIN * tol
        if last:
            ends = torch.ones_like(ends)
        elif iteration >= 2:
            self.stale = (self.stale + 1) * (residual >= self.falling * self.best)
            relative = residual / columns.log_mass[:, 0].exp()
            precision = torch.finfo(residual.dtype).eps
            rounding = precision * columns.x.abs().amax(dim=1)
            ends |= (relative <= rounding) & (self.stale >= 1)
            ends |= (relative <= precision**0.5) & (self.stale >= PATIENCE)
        self.best = torch.minimum(residual, self.best)
        ends &= self.running
        self.running = self.running & ~ends
        return ends


@dataclass(frozen=True)
class Evaluation:
    """A point and how it was reached."""

    reduced: Reduced
    rows: Rows
    columns: Columns
    iteration: int

    def outcome(self, ends: Bool[Tensor, " P"] | None, *, tol: float, last: bool) -> Outcome:
        """Return what the problems that end here (None: all) have as their outcome."""
        f, g = potentials(self.reduced, self.rows, self.columns, ends)
        residual = self.columns.residual if ends is None else self.columns.residual[ends]
        otherwise = Status.ITERATION_LIMIT if last else Status.STALLED
        status = torch.full_like(residual, int(otherwise), dtype=torch.int32)
        status.masked_fill_(residual <= tol, int(Status.CONVERGED))
        return Outcome(f, g, residual, torch.full_like(status, self.iteration), status)


def settle(out: Outcome, progress: Progress, point: Evaluation, *, tol: float, last: bool) -> int | None:
    """Write the problems that end at a point to `out` and, on the CPU, return how many still run.

    Args:
        out: the outcome of the whole chunk.
        progress: of the problems at hand; updated.
        point: the evaluation.
        tol: residual at which a problem has converged.
        last: the iteration limit has come.
    """
    ends = progress.update(point.columns, tol=tol, iteration=point.iteration, last=last)
    if not host.may_read(out.f):
        for name, value in vars(point.outcome(None, tol=tol, last=last)).items():
            kept = getattr(out, name)
            kept.copy_(torch.where(ends[:, None] if value.ndim == 2 else ends, value, kept))
        return None
    count = int(ends.sum())
    if count == len(ends):
        out.store(progress.place, point.outcome(None, tol=tol, last=last))
    elif count:
        out.store(progress.place[ends], point.outcome(ends, tol=tol, last=last))
    return int(progress.running.sum())
