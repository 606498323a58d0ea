"""How sure a number is: bootstrap by group, paired differences over seeds and groups, Holm, detectable difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Statistic = Callable[[ndarray], ndarray]  # weights (R, N) -> values (R,)

FEW_SEEDS = 5  # below this, seeds are shown as points: a bootstrap over them says too little
_CHUNK = 4_000_000  # weights held at once (32 MB)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its percentile interval.

    Attributes:
        estimate: the statistic on the whole sample.
        low: lower end of the interval; NaN where fewer than two groups make one impossible.
        high: upper end.
        groups: how many independent groups were resampled.
        undefined: how many replicates had no value (say, a class was absent) and were left out.
    """

    estimate: float
    low: float
    high: float
    groups: int
    undefined: int = 0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference, first minus second.

    Attributes:
        estimate: the mean over seeds on the whole sample.
        low: lower end of the interval that resamples seeds and groups.
        high: upper end.
        p_value: two-sided, from the same replicates.
        standard_error: their standard deviation.
        minimum_detectable: the true difference that such a study finds with 80 % power at its level.
        per_seed: the difference of each seed on the whole sample.
        groups: how many independent groups were resampled.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    standard_error: float
    minimum_detectable: float
    per_seed: tuple[float, ...]
    groups: int

    @property
    def has_few_seeds(self) -> bool:
        """Whether the seeds are too few for an interval over them: show the points."""
        return len(self.per_seed) < FEW_SEEDS


def bootstrap_interval(
    statistic: Statistic, groups: ndarray, *, replicates: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap interval of a statistic, resampling whole groups with replacement.

    Samples of one group (a patient, a photograph) are not independent, so a group is drawn with all its samples.
    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, sections 2.4, 3.8 and 5.3.

    Args:
        statistic: maps weights (R, N), how often each sample counts in each replicate, to values (R,).
        groups: (N,) the group of each sample, of any type that sorts.
        replicates: how many resamples.
        level: the interval's nominal coverage, in (0, 1).
        seed: the resamples depend on it and on nothing else.

    Raises:
        ValueError: a level outside (0, 1), fewer than one replicate, or no samples.
    """
    _check(level, replicates)
    count = len(np.unique(groups))
    estimate = float(np.asarray(statistic(np.ones((1, len(groups)))))[0])
    if count < 2:
        return Interval(estimate=estimate, low=np.nan, high=np.nan, groups=count)
    drawn = np.concatenate([np.asarray(statistic(w)) for w in group_weights(groups, replicates=replicates, seed=seed)])
    low, high = _percentiles(drawn, level)
    return Interval(estimate=estimate, low=low, high=high, groups=count, undefined=int(np.isnan(drawn).sum()))


def minus(first: Statistic, second: Statistic) -> Statistic:
    """Return the statistic that is the first less the second, both of the same samples."""
    return lambda weights: first(weights) - second(weights)


def paired_difference(
    differences: Sequence[Statistic], groups: ndarray, *, replicates: int = 2000, level: float = 0.95, seed: int = 0
) -> Difference:
    """Return the mean difference over seeds, with an interval that resamples seeds and groups together.

    Both sides of a difference see the same samples, so every replicate gives both the same weights (paired). A
    replicate draws S of the S seeds and G of the G groups with replacement. With one seed only groups are resampled.
    The p-value is 2 min(P(d* <= 0), P(d* >= 0)) with one added to both counts and to the number of replicates.

    Args:
        differences: one statistic per seed: weights (R, N) -> first minus second, (R,).
        groups: (N,) the group of each sample.
        replicates: how many resamples.
        level: the interval's nominal coverage, in (0, 1).
        seed: the resamples depend on it and on nothing else.

    Raises:
        ValueError: no seeds, a level outside (0, 1), or fewer than one replicate.
    """
    _check(level, replicates)
    if not differences:
        raise ValueError("a paired difference needs at least one seed.")
    whole = np.ones((1, len(groups)))
    per_seed = tuple(float(np.asarray(difference(whole))[0]) for difference in differences)
    count, estimate = len(np.unique(groups)), float(np.mean(per_seed))
    if count < 2:  # nothing to resample: no claim
        unknown = dict.fromkeys(("low", "high", "standard_error", "minimum_detectable"), np.nan)
        return Difference(estimate=estimate, p_value=1.0, per_seed=per_seed, groups=count, **unknown)
    drawn = np.concatenate(
        [
            np.stack([np.asarray(difference(weights)) for difference in differences], axis=1)
            for weights in group_weights(groups, replicates=replicates, seed=seed)
        ]
    )  # (R, S)
    means = _over_seeds(drawn, seed)
    low, high = _percentiles(means, level)
    spread = float(means.std(ddof=1)) if len(means) > 1 else np.nan
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(
        estimate=estimate,
        low=low,
        high=high,
        p_value=min(1.0, 2 * (tail + 1) / (len(means) + 1)),
        standard_error=spread,
        minimum_detectable=minimum_detectable_difference(spread, level=level),
        per_seed=per_seed,
        groups=count,
    )


def group_weights(groups: ndarray, *, replicates: int, seed: int) -> Iterator[Float[ndarray, "R N"]]:
    """Yield the bootstrap weights in blocks of replicates: how often each sample's group was drawn.

    The weights of replicate r do not depend on how the blocks are cut.
    """
    _, member = np.unique(groups, return_inverse=True)
    if not len(member):
        raise ValueError("no samples to resample.")
    count = int(member.max()) + 1
    draws = np.random.default_rng([seed, 0]).multinomial(count, np.full(count, 1 / count), size=replicates)
    step = max(1, _CHUNK // len(member))
    for start in range(0, replicates, step):
        yield draws[start : start + step, member].astype(np.float64)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for several comparisons: the i-th smallest of m becomes max_{j<=i} min(1, (m-j+1) p_j).

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics, 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled)) if len(values) else scaled
    return tuple(float(value) for value in adjusted)


def minimum_detectable_difference(standard_error: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return (z_{1 - alpha/2} + z_power) * standard_error, the smallest true difference found with that power."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * standard_error


def _over_seeds(drawn: Float[ndarray, "R S"], seed: int) -> Float[ndarray, " R"]:
    """Average each replicate over S seeds drawn with replacement; replicates without a value are left out."""
    replicates, seeds = drawn.shape
    shares = np.random.default_rng([seed, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
    means = np.where(shares > 0, shares * drawn, 0).sum(1)  # a seed that was not drawn may be NaN
    return means[~np.isnan(means)]


def _percentiles(values: ndarray, level: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(level: float, replicates: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}.")
    if replicates < 1:
        raise ValueError(f"replicates must be >= 1, got {replicates}.")
