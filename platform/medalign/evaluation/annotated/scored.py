"""What a scoring gives before any interval: statistics of units, which are resampled by group; and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from medalign.evaluation.annotated.result import OperatingPoint, Reliability, Subgroup
from medalign.evaluation.annotated.settings import AnnotatedSettings
from medalign_core.metrics.intervals import Interval, Statistic, bootstrap_interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Statistics of fixed predictions as functions of the units' weights.

    Attributes:
        units: what is counted: "image" or "volume".
        ids: (N,) of the units.
        groups: (N,) patient, photograph or volume: what is resampled.
        attributes: of each unit, by name.
        primary: the name of the statistic that subgroups and comparisons are about.
        statistics: over all classes.
        per_class: of each class.
        operating_points: sensitivities at thresholds that another split has chosen.
        reliability: how far confidence is from accuracy.
        notes: what a reader of the numbers must know.
    """

    units: str
    ids: ndarray
    groups: ndarray
    attributes: Sequence[Mapping[str, str]]
    primary: str
    statistics: dict[str, Statistic]
    per_class: dict[str, dict[str, Statistic]] = field(default_factory=dict)
    operating_points: tuple[tuple[OperatingPoint, Statistic, Statistic], ...] = ()
    reliability: Reliability | None = None
    notes: tuple[str, ...] = ()


def interval(statistic: Statistic, groups: ndarray, settings: AnnotatedSettings) -> Interval:
    """Return a statistic's interval by resampling whole groups."""
    return bootstrap_interval(
        statistic, groups, replicates=settings.replicates, level=settings.level, seed=settings.seed
    )


def score_subgroups(scored: Scored, settings: AnnotatedSettings) -> tuple[Subgroup, ...]:
    """Return the primary statistic of every value of every attribute, the worst first within an attribute.

    Units without the attribute are one subgroup, "not stated", where others have it.
    """
    found: list[Subgroup] = []
    for name in sorted({name for each in scored.attributes for name in each}):
        values = np.array([each.get(name, "not stated") for each in scored.attributes], dtype=object)
        rows = [_subgroup(scored, name, value, values == value, settings) for value in sorted(set(values))]
        found += sorted(rows, key=lambda row: (np.isnan(row.score.estimate), row.score.estimate))
    return tuple(found)


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """Return the mean of statistics, leaving out those without a value; NaN where none has one."""

    def value(weights: ndarray) -> ndarray:
        values = np.stack([statistic(weights) for statistic in statistics])
        there = ~np.isnan(values)
        total = np.where(there, values, 0).sum(0)
        return np.divide(total, there.sum(0), out=np.full(total.shape, np.nan), where=there.any(0))

    return value


def within(statistic: Statistic, chosen: ndarray) -> Statistic:
    """Return a statistic of the chosen units alone: it takes weights of those."""

    def value(weights: ndarray) -> ndarray:
        whole = np.zeros((*weights.shape[:-1], len(chosen)))
        whole[..., chosen] = weights
        return statistic(whole)

    return value


def _subgroup(scored: Scored, name: str, value: str, chosen: ndarray, settings: AnnotatedSettings) -> Subgroup:
    statistic = within(scored.statistics[scored.primary], chosen)
    groups = scored.groups[chosen]
    return Subgroup(
        attribute=name,
        value=value,
        units=int(chosen.sum()),
        groups=len(np.unique(groups)),
        score=interval(statistic, groups, settings),
    )
