"""From predictions to scores with intervals, and to paired comparisons, of which one was declared before looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from numpy import ndarray

from medalign.evaluation.result import Comparison, Predictions, Samples, Score
from medalign_core.metrics.classification import METRICS, classification_scores
from medalign_core.metrics.intervals import (
    Difference,
    Statistic,
    bootstrap_interval,
    holm,
    minus,
    paired_difference,
)

Entry = TypeVar("Entry")

PRIMARY = {"method": "pretrained", "against": "random", "head": "logistic", "metric": "balanced_accuracy"}


def score(
    predictions: Sequence[Predictions], samples: Samples, *, replicates: int, level: float, seed: int
) -> tuple[Score, ...]:
    """Return every metric of every prediction with the interval that resamples the test split's groups."""
    return tuple(
        Score(
            method=entry.method,
            head=entry.head,
            seed=entry.seed,
            chosen=entry.chosen,
            metrics={
                name: bootstrap_interval(
                    statistic(entry, samples, name), samples.groups, replicates=replicates, level=level, seed=seed
                )
                for name in METRICS
            },
        )
        for entry in predictions
    )


def compare(
    predictions: Sequence[Predictions], samples: Samples, *, replicates: int, level: float, seed: int
) -> tuple[Comparison, ...]:
    """Return the paired comparisons of "pretrained" with every other method under every head.

    The primary one (`PRIMARY`) is declared here, before any result. The others are secondary, and their p-values are
    Holm-corrected among themselves. Methods are paired by seed; one that has a single seed meets each of the other's.
    A difference below the minimum detectable one, or with an adjusted p-value above 1 - level, is "not
    distinguishable".
    """
    metric, first = PRIMARY["metric"], PRIMARY["method"]
    methods, heads = (list(dict.fromkeys(getattr(p, name) for p in predictions)) for name in ("method", "head"))
    found: list[Comparison] = []
    for head in heads:
        for against in methods:
            pairs = _pairs(predictions, first, against, head) if against != first else []
            if not pairs:
                continue
            differences = [minus(statistic(a, samples, metric), statistic(b, samples, metric)) for a, b in pairs]
            difference = paired_difference(differences, samples.groups, replicates=replicates, level=level, seed=seed)
            declared = {"method": first, "against": against, "head": head, "metric": metric}
            role = "primary" if declared == PRIMARY else "secondary"
            found.append(
                Comparison(**declared, role=role, difference=difference, adjusted=difference.p_value, verdict="")
            )
    return judge(found, level)


class Judged(Protocol):
    """A comparison, a dataclass, that has a verdict and an adjusted p-value to be filled in."""

    @property
    def role(self) -> str:
        """Return "primary" or "secondary"."""

    @property
    def difference(self) -> Difference:
        """Return what was found."""


Compared = TypeVar("Compared", bound=Judged)


def judge(comparisons: Sequence[Compared], level: float) -> tuple[Compared, ...]:
    """Return comparisons with `adjusted` and `verdict`: the primary's p-value stands, Holm corrects the others."""
    secondary = [c for c in comparisons if c.role == "secondary"]
    adjusted = iter(holm([c.difference.p_value for c in secondary]))
    return tuple(
        _judged(c, next(adjusted) if c.role == "secondary" else c.difference.p_value, level) for c in comparisons
    )


def statistic(entry: Predictions, samples: Samples, metric: str) -> Statistic:
    """Return a metric of fixed predictions as a function of the samples' weights."""

    def value(weights: ndarray) -> ndarray:
        scores = classification_scores(samples.labels, entry.probabilities, weights=weights, metrics=[metric])
        return scores[metric]

    return value


def pair_by_seed(ours: Mapping[int, Entry], theirs: Mapping[int, Entry]) -> list[tuple[Entry, Entry]]:
    """Return the entries of two sides with the same seed; a side with a single one meets each of the other's."""
    if len(ours) == 1:
        return [(next(iter(ours.values())), other) for other in theirs.values()]
    if len(theirs) == 1:
        return [(own, next(iter(theirs.values()))) for own in ours.values()]
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def _pairs(
    predictions: Sequence[Predictions], first: str, second: str, head: str
) -> list[tuple[Predictions, Predictions]]:
    ours, theirs = ({p.seed: p for p in predictions if (p.method, p.head) == (name, head)} for name in (first, second))
    return pair_by_seed(ours, theirs)


def _judged(comparison: Compared, p_value: float, level: float) -> Compared:
    whole: Any = comparison
    found: Compared = replace(whole, adjusted=p_value, verdict=_verdict(comparison.difference, p_value, level))
    return found


def _verdict(difference: Difference, p_value: float, level: float) -> str:
    seen = abs(difference.estimate) >= difference.minimum_detectable  # False where that is NaN
    if not seen or p_value > 1 - level:
        return "not distinguishable"
    return "higher" if difference.estimate > 0 else "lower"
