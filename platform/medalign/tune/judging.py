"""Which trial is the best, and which are not beaten in all metrics at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medalign.tune.result import TrialRecord
from medalign.tune.settings import Tune


def best_of(trials: Sequence[TrialRecord], settings: Tune) -> TrialRecord | None:
    """Return the completed trial with the best first metric, the first sampled in a tie; None where none completed.

    A trial that was stopped early has taken fewer steps: its figure is not compared.
    """
    found = _completed(trials, settings)
    sign, name = _sign(settings.modes[0]), settings.metrics[0]
    return max(found, key=lambda trial: (sign * trial.values[name], -trial.number)) if found else None


def pareto_front(trials: Sequence[TrialRecord], settings: Tune) -> list[TrialRecord]:
    """Return the completed trials that no other one is at least as good as in every metric, and better in one."""
    found = _completed(trials, settings)
    signs = [_sign(mode) for mode in settings.modes]

    def figures(trial: TrialRecord) -> list[float]:
        return [sign * trial.values[name] for sign, name in zip(signs, settings.metrics, strict=True)]

    def beats(first: TrialRecord, second: TrialRecord) -> bool:
        pairs = list(zip(figures(first), figures(second), strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [trial for trial in found if not any(beats(other, trial) for other in found)]


def _completed(trials: Sequence[TrialRecord], settings: Tune) -> list[TrialRecord]:
    return [
        trial
        for trial in trials
        if trial.state == "completed" and all(math.isfinite(trial.values.get(m, math.nan)) for m in settings.metrics)
    ]


def _sign(mode: str) -> int:
    return 1 if mode == "max" else -1
