"""Intervals against the bootstrap's closed forms, a plain loop, and coverage on known data."""

import numpy as np
import pytest

from medalign_core.metrics.intervals import (
    FEW_SEEDS,
    bootstrap_interval,
    group_weights,
    holm,
    minimum_detectable_difference,
    paired_difference,
)


def mean_of(values: np.ndarray):
    return lambda weights: (weights @ values) / weights.sum(1)


def test_bootstrap_of_a_mean_has_the_width_of_its_closed_form() -> None:
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_interval(mean_of(values), np.arange(400), replicates=4000)
    half = 1.96 * values.std() / np.sqrt(400)  # the bootstrap's own standard error of a mean, n in the denominator
    assert interval.estimate == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.05)
    assert (interval.groups, interval.undefined) == (400, 0)


def test_copies_within_a_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(1).normal(size=60)
    alone = bootstrap_interval(mean_of(values), np.arange(60))
    copied = bootstrap_interval(mean_of(np.repeat(values, 8)), np.repeat(np.arange(60), 8))
    naive = bootstrap_interval(mean_of(np.repeat(values, 8)), np.arange(480))
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_group_weights_draw_as_many_groups_as_there_are_and_keep_each_whole() -> None:
    groups = np.array(["a", "b", "a", "c", "c", "c"])
    weights = np.concatenate(list(group_weights(groups, replicates=50, seed=3)))
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(1), 3)


def test_weights_do_not_depend_on_how_the_blocks_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.arange(30) // 3
    whole = np.concatenate(list(group_weights(groups, replicates=40, seed=5)))
    monkeypatch.setattr("medalign_core.metrics.intervals._CHUNK", 7 * 30)
    blocks = list(group_weights(groups, replicates=40, seed=5))
    assert len(blocks) == 6
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    draw, covered = np.random.default_rng(2), 0
    for trial in range(200):
        effect = np.repeat(draw.normal(size=40), 3)  # three images of one patient share most of their error
        values = effect + 0.1 * draw.normal(size=120)
        interval = bootstrap_interval(mean_of(values), np.arange(120) // 3, replicates=400, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_pairing_makes_a_constant_difference_certain() -> None:
    base = np.random.default_rng(3).normal(size=50)
    difference = paired_difference([lambda w: mean_of(base + 0.3)(w) - mean_of(base)(w)], np.arange(50))
    assert (difference.low, difference.high) == pytest.approx((0.3, 0.3))
    assert difference.p_value == pytest.approx(2 / 2001)
    assert difference.minimum_detectable == pytest.approx(0, abs=1e-12)


def test_resampling_seeds_widens_the_interval_by_their_spread() -> None:
    values = 0.01 * np.random.default_rng(4).normal(size=300)
    shifts = np.array([-0.4, -0.2, 0.1, 0.2, 0.3, 0.6])
    per_seed = [mean_of(values + shift) for shift in shifts]
    difference = paired_difference(per_seed, np.arange(300), replicates=4000)
    assert difference.standard_error == pytest.approx(shifts.std() / np.sqrt(6), rel=0.05)
    assert difference.per_seed == pytest.approx(tuple(shifts + values.mean()))
    assert not difference.has_few_seeds
    assert paired_difference(per_seed[: FEW_SEEDS - 1], np.arange(300)).has_few_seeds


def test_swapping_the_sides_mirrors_the_difference() -> None:
    first, second = np.random.default_rng(5).normal(size=(2, 80))
    ahead = paired_difference([lambda w: mean_of(first)(w) - mean_of(second)(w)], np.arange(80))
    behind = paired_difference([lambda w: mean_of(second)(w) - mean_of(first)(w)], np.arange(80))
    assert (ahead.low, ahead.high) == pytest.approx((-behind.high, -behind.low))
    assert ahead.p_value == behind.p_value


def test_one_group_allows_no_claim() -> None:
    statistic = mean_of(np.arange(5.0))
    interval = bootstrap_interval(statistic, np.zeros(5))
    difference = paired_difference([statistic], np.zeros(5))
    assert np.isnan([interval.low, interval.high, difference.low, difference.minimum_detectable]).all()
    assert (interval.estimate, difference.p_value) == (2.0, 1.0)


def test_replicates_without_a_value_are_counted_and_left_out() -> None:
    interval = bootstrap_interval(
        lambda weights: np.where(weights[:, 0] > 0, weights[:, 0], np.nan), np.arange(8), replicates=1000
    )
    assert interval.undefined == pytest.approx(1000 * (7 / 8) ** 8, rel=0.15)
    assert interval.low == 1.0


def test_holm_gives_the_hand_computed_values_in_the_order_given() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    assert holm([]) == ()


def test_the_minimum_detectable_difference_is_found_with_the_stated_power() -> None:
    detectable = minimum_detectable_difference(1.0)
    found = np.abs(detectable + np.random.default_rng(6).normal(size=200_000)) > 1.959964
    assert detectable == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    assert found.mean() == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(mean_of(np.ones(3)), np.arange(3), level=level)
