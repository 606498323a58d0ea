"""What an algorithm hands back, filled in as problems finish, and the bookkeeping of who has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.status import Status

PATIENCE = 3  # evaluations without progress, close to the precision of the dtype, before a problem has stalled
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
    def empty(cls, problem: Problem) -> Outcome:
        """Return room for the outcome of every problem."""
        like, (count, rows, columns) = problem.cost, problem.cost.shape
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
    """Which problems of a batch are done. A problem's answer never depends on its neighbours: each has its own clock.

    Attributes:
        status: -1 while a problem runs, then its Status.
        best: the smallest residual so far.
        stale: evaluations since it last fell by a tenth.
    """

    status: Int[Tensor, " P"]
    best: Float[Tensor, " P"]
    stale: Int[Tensor, " P"]

    @classmethod
    def start(cls, residual_like: Float[Tensor, "P ..."]) -> Progress:
        """Return the bookkeeping of problems none of which has been evaluated."""
        count = residual_like.shape[:1]
        running = torch.full(count, -1, dtype=torch.int32, device=residual_like.device)
        return cls(running, residual_like.new_full(count, torch.inf), torch.zeros_like(running))

    def take(self, rows: Tensor) -> Progress:
        """Return some of the problems."""
        return Progress(self.status[rows], self.best[rows], self.stale[rows])

    def update(
        self, residual: Float[Tensor, " P"], *, mass: Float[Tensor, " P"], tol: float, last: bool
    ) -> Bool[Tensor, " P"]:
        """Judge a new residual; return the problems that end with it.

        Args:
            residual: of the point just evaluated.
            mass: of its plan; how small a residual can get is relative to it.
            tol: where a problem has converged.
            last: the iteration limit has come.
        """
        falls = residual < 0.9 * self.best
        self.stale = torch.where(falls, 0, self.stale + 1)
        self.best = torch.minimum(residual, self.best)
        close = residual <= mass * torch.finfo(residual.dtype).eps ** 0.5
        stalled = close & (self.stale >= PATIENCE)
        verdict = torch.where(stalled, int(Status.STALLED), int(Status.ITERATION_LIMIT) if last else -1)
        fine = (residual <= MARGIN * tol) | ((residual <= tol) & (verdict >= 0))
        verdict = torch.where(fine, int(Status.CONVERGED), verdict)
        ends = (self.status < 0) & (verdict >= 0)
        self.status = torch.where(ends, verdict, self.status).to(torch.int32)
        return ends
