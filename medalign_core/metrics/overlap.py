"""Overlap of masks: Dice and IoU from counts, one number per unit (an image or a volume), with empty masks defined.

A unit that has a class neither in truth nor in prediction has no overlap to measure: NaN, to be left out of a mean. One
that has it on one side only scores 0: a false alarm costs as much as a miss.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Integer, Real
from numpy import ndarray

IGNORED = 255


def overlap_counts(
    truth: Integer[ndarray, "*P"], predicted: Integer[ndarray, "*P"], *, classes: int
) -> Int[ndarray, "C 3"]:
    """Return for each class (pixels of both, of the truth, of the prediction) over the pixels whose truth is known.

    Args:
        truth: class index of each pixel or voxel, of any shape, 255 where nothing is known.
        predicted: class index of each, of the same shape.
        classes: C, the background included.

    Raises:
        ValueError: shapes that differ, or a class outside [0, classes).
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {truth.shape} and predicted {predicted.shape}; they must be alike.")
    known = truth != IGNORED
    truth, predicted = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    for name, values in (("truth", truth), ("predicted", predicted)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(f"{name} must lie in [0, {classes}), got {values.min()} to {values.max()}.")
    table = np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return np.stack([np.diagonal(table), table.sum(1), table.sum(0)], axis=1)


def dice(counts: ndarray) -> Float[ndarray, "*N"]:
    """Return 2 both / (truth + predicted) of counts (..., 3), in [0, 1]; NaN where both are empty."""
    both, truth, predicted = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _divide(2 * both, truth + predicted)


def iou(counts: ndarray) -> Float[ndarray, "*N"]:
    """Return both / (truth + predicted - both) of counts (..., 3), in [0, 1]; NaN where both are empty."""
    both, truth, predicted = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _divide(both, truth + predicted - both)


def weighted_mean(values: Float[ndarray, " N"], weights: Real[ndarray, "*R N"]) -> Float[ndarray, "*R"]:
    """Return the weighted mean of the values that exist (not NaN); NaN where none has weight."""
    there = ~np.isnan(values)
    total = np.asarray(weights @ np.where(there, values, 0.0))  # of one row of weights: a number
    return _divide(total, np.asarray(weights @ there.astype(np.float64)))


def _divide(top: ndarray, bottom: ndarray) -> ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
