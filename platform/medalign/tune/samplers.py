"""Where the next configuration comes from: random draws, the whole grid, or Optuna's TPE. None comes twice.

A sampler is fed from the ledger: what is known is told before anything is asked, so it needs no state of its own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from medalign.config import Document
from medalign.tune.result import TrialRecord
from medalign.tune.settings import TPE, Grid, Tune
from medalign.tune.space import FINITE, Axis, Point, Space, identity
from medalign_core.ops.draws import draw_seed

TRIES = 200  # draws in a row that were all there already: then the space has no more


class Sampler(Protocol):
    """Gives points and hears what became of them."""

    def ask(self, number: int) -> Point | None:
        """Return the point of trial `number`; None where there is no other one."""

    def tell(self, trial: TrialRecord) -> None:
        """Hear how a trial ended."""


def build_sampler(settings: Tune, space: Space, document: Document, known: Sequence[TrialRecord]) -> Sampler:
    """Return the sampler of a sweep that knows these trials already.

    Raises:
        RecipeError: the sampler cannot take this space.
    """
    check_sampler(settings, space, document)
    if isinstance(settings.sampler, Grid):
        return _GridSampler(space, known)
    if isinstance(settings.sampler, TPE):
        from medalign.tune.tpe import TPESampler

        return TPESampler(settings, space, known)
    return RandomSampler(space, known, seed=settings.seed)


def check_sampler(settings: Tune, space: Space, document: Document) -> None:
    """Refuse a sampler that cannot take a space.

    Raises:
        RecipeError: see above.
    """
    if isinstance(settings.sampler, Grid):
        for axis in space.axes:
            if axis.kind not in FINITE:
                problem = f"must be choice or grid with tune.sampler.type: grid; {axis.kind} has no end."
                raise document.error(("search", axis.key), problem)
    if isinstance(settings.sampler, TPE) and (grid := next((a for a in space.axes if a.kind == "grid"), None)):
        raise document.error(("search", grid.key), "must not be grid with tune.sampler.type: tpe; write choice.")


def planned(settings: Tune, space: Space) -> int:
    """Return how many trials a sweep has, unless its space ends before."""
    if isinstance(settings.sampler, Grid):
        points = sum(1 for _ in itertools.islice(space.walk(), 1_000_000))
        return min(settings.trials, points) if settings.trials else points
    return settings.trials * sum(1 for _ in space.walk(("grid",)))


class RandomSampler:
    """Trial i is drawn from (seed, i // grid points), crossed with point i % grid points of the `grid` keys."""

    def __init__(self, space: Space, known: Sequence[TrialRecord], *, seed: int) -> None:
        self._space, self._seed = space, seed
        self._grid = list(space.walk(("grid",)))
        self._seen = {identity(trial.point) for trial in known}

    def ask(self, number: int) -> Point | None:
        """Return the point of a trial; a draw that was there already is drawn anew."""
        turn, place = divmod(number, len(self._grid))
        for attempt in range(TRIES):
            draws = np.random.default_rng(draw_seed(self._seed, "trial", turn, attempt))
            point = self._space.draw(draws, self._grid[place])
            if identity(point) not in self._seen:
                self._seen.add(identity(point))
                return point
        return None

    def tell(self, trial: TrialRecord) -> None:
        """Learn nothing."""


class _GridSampler:
    def __init__(self, space: Space, known: Sequence[TrialRecord]) -> None:
        seen = {identity(trial.point) for trial in known}
        self._left: Iterator[Point] = (point for point in space.walk() if identity(point) not in seen)

    def ask(self, number: int) -> Point | None:
        """Return the next combination."""
        return next(self._left, None)

    def tell(self, trial: TrialRecord) -> None:
        """Learn nothing."""


def category(value: Any) -> str:
    """Write a value of a choice as Optuna takes it, for lists as well."""
    return json.dumps(value, sort_keys=True)


def distribution(axis: Axis) -> Any:
    """Return an axis as a distribution of Optuna."""
    from optuna import distributions

    if axis.kind in FINITE:
        return distributions.CategoricalDistribution([category(value) for value in axis.values])
    if axis.kind == "int":
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=axis.step)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.kind == "loguniform")
