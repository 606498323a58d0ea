"""Optuna's TPE, fed from the ledger: finished trials are told before it is asked; its study lives in memory alone."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from medalign.tune.result import TrialRecord
from medalign.tune.samplers import TRIES, RandomSampler, category, distribution
from medalign.tune.settings import Tune
from medalign.tune.space import FINITE, Point, Space, identity

optuna.logging.set_verbosity(optuna.logging.ERROR)
COMPLETE, PRUNED, FAIL = (
    optuna.trial.TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED,
    optuna.trial.TrialState.FAIL,
)
OWN_TRIES = 20  # of TPE in a row that were all there already: then a random one


class TPESampler:
    """Asks Optuna. A trial that was stopped early is told as pruned, with its figures on the way.

    What it suggests after a resumption is another random sequence than it would have been, made of the same knowledge.
    """

    def __init__(self, settings: Tune, space: Space, known: Sequence[TrialRecord]) -> None:
        self._settings, self._space = settings, space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=settings.seed + len(known),
                n_startup_trials=settings.sampler.startup,
                multivariate=settings.sampler.multivariate,
                group=settings.sampler.multivariate,
                constant_liar=True,
            )
        directions: list[Any] = ["maximize" if mode == "max" else "minimize" for mode in settings.modes]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._asked: dict[int, int] = {}  # our number -> Optuna's
        self._known: dict[str, TrialRecord | None] = {}
        self._random = RandomSampler(space, known, seed=settings.seed)
        for trial in known:
            self._known[identity(trial.point)] = trial
            self._add(trial)

    def ask(self, number: int) -> Point | None:
        """Return TPE's next point; where it only repeats itself, a random one; None where the space has no more."""
        for _ in range(OWN_TRIES):
            asked = self._study.ask()
            point = self._point(asked)
            if identity(point) not in self._known:
                self._known[identity(point)] = None
                self._asked[number] = asked.number
                return point
            self._repeat(asked.number, self._known[identity(point)])
        for attempt in range(TRIES):
            drawn = self._random.ask(number + attempt)
            if drawn is not None and identity(drawn) not in self._known:
                self._known[identity(drawn)] = None
                return drawn
        return None

    def tell(self, trial: TrialRecord) -> None:
        """Pass on how a trial ended."""
        self._known[identity(trial.point)] = trial
        state, values = self._outcome(trial)
        asked = self._asked.pop(trial.number, None)
        if asked is not None and state == COMPLETE:
            self._study.tell(asked, values)
            return
        if asked is not None:
            self._study.tell(asked, state=FAIL)  # what was stopped is added anew, with its figures on the way
        self._add(trial)

    def _point(self, asked: optuna.Trial) -> Point:
        point: Point = {}
        for axis in self._space.axes:
            if not axis.exists(point, self._space.base):
                continue
            if axis.kind in FINITE:
                said = asked.suggest_categorical(axis.key, [category(value) for value in axis.values])
                point[axis.key] = json.loads(said)
            elif axis.kind == "int":
                low, high = int(axis.low), int(axis.high)
                point[axis.key] = asked.suggest_int(axis.key, low, high, step=axis.step, log=axis.log)
            else:
                is_log = axis.kind == "loguniform"
                point[axis.key] = asked.suggest_float(axis.key, axis.low, axis.high, log=is_log)
        return point

    def _repeat(self, asked: int, trial: TrialRecord | None) -> None:
        """Answer a point that was there already with what is known of it."""
        state, values = self._outcome(trial) if trial is not None else (FAIL, None)
        if state == COMPLETE:
            self._study.tell(asked, values)
        else:
            self._study.tell(asked, state=FAIL)

    def _outcome(self, trial: TrialRecord) -> tuple[Any, list[float] | None]:
        values = [trial.values.get(name, math.nan) for name in self._settings.metrics]
        if trial.state == "completed" and all(math.isfinite(value) for value in values):
            return COMPLETE, values
        return (PRUNED if trial.state == "stopped" and len(values) == 1 else FAIL), None

    def _add(self, trial: TrialRecord) -> None:
        """Add what is known of a trial that Optuna did not ask for, or has forgotten."""
        state, values = self._outcome(trial)
        if trial.state is None or state == FAIL:
            return
        axes = {axis.key: axis for axis in self._space.axes if axis.key in trial.point}
        name = self._settings.metrics[0]
        seen = {r.step: r.values.get(name, math.nan) for r in trial.reports}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params={k: category(v) if axes[k].kind in FINITE else v for k, v in trial.point.items()},
                distributions={key: distribution(axis) for key, axis in axes.items()},
                values=values,
                intermediate_values={step: value for step, value in seen.items() if math.isfinite(value)},
            )
        )
