"""The search of one problem in NumPy and SciPy: the same steps as in compiled_search, which says more about them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.matching.moves import draw_nodes, exhaust, fuse, polish
from medalign_core.solvers.matching.objective import Objective
from medalign_core.solvers.matching.run import Options
from medalign_core.solvers.matching.tolerances import BARYCENTRE, PATIENCE, TOLERANCE


class Search:
    """One problem being searched.

    Attributes:
        p: (n,), the best matching so far.
        value: F of it.
        done: whether no exchange improves it.
        used: linear assignments solved.
        draws: the state of the random draws.
    """

    def __init__(self, objective: Objective, options: Options, floor: float) -> None:
        self._objective, self._floor = objective, floor
        self._steps, self._partial, self._tried = options.steps, options.partial, options.tried
        self.p: Int[np.ndarray, " n"] = np.full(len(objective.unary), -1)
        self.value, self.done, self.used, self.draws = 0.0, True, 0, 1

    def run(self, given: Int[np.ndarray, " n"] | None, rounds: tuple[int, int]) -> None:
        """Do the rounds from one to another (see run.Path.solve); `given` is a start."""
        first, stop = rounds
        start = self._begin(given) if first == 0 else self.p
        if len(self.p) <= self._tried:
            return
        for climb in range(first, stop):
            if climb not in (0, BARYCENTRE):
                self._improve()
                continue
            found = self._climb(start if climb == 0 else None)
            found, done = polish(self._objective, found, self._floor, partial=self._partial)
            self._keep_better(found, done)

    def _begin(self, given: np.ndarray | None) -> np.ndarray:
        self.p = corner_of(self._objective.unary, self._partial)
        self.value = self._objective.value(self.p)
        self.used += 1
        if len(self.p) <= self._tried:
            self.p, self.value = exhaust(self._objective, self.p, self.value, self._floor, partial=self._partial)
            return self.p
        start = self.p
        if given is not None:
            start = given
            if self._objective.value(given) > self.value:
                self.p, self.value = given.copy(), self._objective.value(given)
        return start

    def _improve(self) -> None:
        """Veto partners in the best matching, climb from there, fuse, polish."""
        if len(self.p) < 3:
            return
        gradient = self._objective.gradient(self.p)
        nodes, self.draws = draw_nodes(len(self.p), self.draws)
        nodes = nodes[self.p[nodes] >= 0]
        gradient[nodes, self.p[nodes]] = -1e13 * self._floor
        self.used += 1
        other = self._climb(corner_of(gradient, self._partial))
        trial = self.p
        if self._objective.value(other) > self.value:
            trial, other = other, trial
        trial = fuse(self._objective, trial, other, self._floor)
        if (trial != self.p).any():
            self._keep_better(*polish(self._objective, trial, self._floor, partial=self._partial))

    def _climb(self, start: np.ndarray | None) -> np.ndarray:
        found, taken = climb_from(self._objective, start, self._steps, partial=self._partial)
        self.used += taken
        return found

    def _keep_better(self, found: np.ndarray, done: bool) -> None:
        value = self._objective.value(found)
        if value > self.value + self._floor:
            self.p, self.value, self.done = found, value, done


def corner_of(gradient: Float[np.ndarray, "n n"], partial: bool) -> Int[np.ndarray, " n"]:
    """Return the matching that a linear function is largest at."""
    return assign(gradient[None], partial=partial, backend="numpy")[0]


def climb_from(
    objective: Objective, start: Int[np.ndarray, " n"] | None, steps: int, *, partial: bool
) -> tuple[Int[np.ndarray, " n"], int]:
    """Frank-Wolfe from a matching, or from the barycentre; return the best matching met and assignments solved."""
    if start is None:
        share = 1.0 / len(objective.unary)
        gradient = objective.uniform_gradient(share)
        linear = share * objective.unary.sum()
        quadratic = 0.5 * (share * gradient.sum() - linear)
    else:
        gradient = objective.gradient(start)
        linear, quadratic = objective.linear(start), objective.quadratic(start)
    best, value, used, stale = np.zeros(0, dtype=np.int64), -np.inf, 0, 0
    while used < steps:
        corner = corner_of(gradient, partial)
        used, stale = used + 1, stale + 1
        nodes = np.flatnonzero(corner >= 0)
        corner_linear, corner_quadratic = objective.linear(corner), objective.quadratic(corner)
        if corner_linear + corner_quadratic > value:
            best, value, stale = corner, corner_linear + corner_quadratic, 0
        cross = 0.5 * (gradient[nodes, corner[nodes]].sum() - corner_linear)
        # towards the corner C, F(X + t (C - X)) is a constant + slope * t + curve * t^2
        curve = quadratic - 2 * cross + corner_quadratic
        slope = corner_linear - linear + 2 * (cross - quadratic)
        if stale >= PATIENCE or slope <= TOLERANCE * (abs(linear) + abs(quadratic)):
            break
        step = min(1.0, -slope / (2 * curve)) if curve < 0 else 1.0
        gradient += step * (objective.gradient(corner) - gradient)
        quadratic = (1 - step) ** 2 * quadratic + 2 * step * (1 - step) * cross + step**2 * corner_quadratic
        linear += step * (corner_linear - linear)
    return best, used
