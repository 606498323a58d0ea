"""The expected calibration error against hand computations."""

import numpy as np
import pytest

from medalign_core.metrics.calibration import expected_calibration_error

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
LABELS = np.array([0, 1, 1, 0])


def test_ece_is_the_weighted_gap_of_each_bin():
    # two bins: (0, 0.5] is empty; in (0.5, 1] half are right, the confidence is 0.75 on the mean
    assert expected_calibration_error(LABELS, PROBABILITIES, bins=2) == pytest.approx(0.25)
    # ten bins: each sample has its own: right at 0.9 and 0.7, wrong at 0.8 and 0.6
    assert expected_calibration_error(LABELS, PROBABILITIES, bins=10) == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)


def test_a_classifier_that_is_sure_and_right_has_no_error():
    assert expected_calibration_error(np.array([0, 1]), np.eye(2)) == 0
    assert expected_calibration_error(np.array([1, 0]), np.eye(2)) == 1


def test_weights_count_samples_as_often_as_repeating_them():
    weights = np.array([[2, 0, 1, 3], [1, 1, 1, 1]])
    found = expected_calibration_error(LABELS, PROBABILITIES, weights=weights)
    repeated = np.repeat(np.arange(4), weights[0])
    assert found[0] == pytest.approx(expected_calibration_error(LABELS[repeated], PROBABILITIES[repeated]))
    assert found[1] == pytest.approx(expected_calibration_error(LABELS, PROBABILITIES))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="bins must be >= 1"):
        expected_calibration_error(LABELS, PROBABILITIES, bins=0)
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(LABELS[:3], PROBABILITIES)
