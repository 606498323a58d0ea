"""How much each key matters: functional ANOVA over a forest (Hutter et al. 2014), Optuna's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medalign.tune.result import TrialRecord
from medalign.tune.samplers import category, distribution
from medalign.tune.space import FINITE, Space

FEWEST = 6  # trials that the forest is grown on


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Shares of the explained variance.

    Attributes:
        shares: by key, falling; they sum to 1. Keys that only some of the trials have are left out.
        step: after which the figures were taken.
        trials: how many had come as far.
    """

    shares: dict[str, float]
    step: int
    trials: int


def importance(trials: Sequence[TrialRecord], space: Space, *, metric: str, seed: int = 0) -> Importance | None:
    """Return how much each key matters; None where too few trials say, or all have the same figure.

    Trials are compared after the same number of steps: the largest that at least half of those with figures, and
    FEWEST, have reached. So those that were stopped early count as well.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    step, found = _at_a_common_step(trials, metric)
    if len(found) < FEWEST or len(set(found.values())) < 2:
        return None
    keys = [axis for axis in space.axes if all(axis.key in trial.point for trial in trials if trial.number in found)]
    varied = [a for a in keys if len({category(t.point[a.key]) for t in trials if t.number in found}) > 1]
    if not varied:
        return None
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        if trial.number in found:
            study.add_trial(
                optuna.trial.create_trial(
                    params={
                        axis.key: category(trial.point[axis.key]) if axis.kind in FINITE else trial.point[axis.key]
                        for axis in varied
                    },
                    distributions={axis.key: distribution(axis) for axis in varied},
                    value=found[trial.number],
                )
            )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Importance(shares=dict(sorted(shares.items(), key=lambda pair: -pair[1])), step=step, trials=len(found))


def _at_a_common_step(trials: Sequence[TrialRecord], metric: str) -> tuple[int, dict[int, float]]:
    """Return the step, and each trial's figure at the last report up to it, of those that went as far."""
    reached = sorted(
        (trial.reports[-1].step for trial in trials if trial.reports and trial.state in ("completed", "stopped")),
        reverse=True,
    )
    if not reached:
        return 0, {}
    step = reached[min(len(reached), max(FEWEST, math.ceil(len(reached) / 2))) - 1]
    found = {}
    for trial in trials:
        if trial.state in ("completed", "stopped") and trial.reports and trial.reports[-1].step >= step:
            seen = [r.values.get(metric, math.nan) for r in trial.reports if r.step <= step]
            if seen and math.isfinite(seen[-1]):
                found[trial.number] = seen[-1]
    return step, found
