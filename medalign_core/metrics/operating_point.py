"""An operating point: the threshold of a fixed specificity, chosen on one set, and what it gives on another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Real
from numpy import ndarray


def threshold_at_specificity(positive: Bool[ndarray, " N"], scores: Float[ndarray, " N"], specificity: float) -> float:
    """Return the smallest threshold at which `score > threshold` leaves out that share of the negatives, or more.

    Raises:
        ValueError: a specificity outside (0, 1], or no negatives.
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"specificity must lie in (0, 1], got {specificity}.")
    negatives = np.sort(scores[~positive])
    if not len(negatives):
        raise ValueError("no negatives to choose a threshold by.")
    return float(negatives[max(0, int(np.ceil(specificity * len(negatives) - 1e-9)) - 1)])


def sensitivity(
    positive: Bool[ndarray, " N"], scores: Float[ndarray, " N"], threshold: float, weights: Real[ndarray, "*R N"]
) -> Float[ndarray, "*R"]:
    """Return the weighted share of positives whose score is above the threshold; NaN without positives."""
    return _share((scores > threshold), positive, weights)


def specificity(
    positive: Bool[ndarray, " N"], scores: Float[ndarray, " N"], threshold: float, weights: Real[ndarray, "*R N"]
) -> Float[ndarray, "*R"]:
    """Return the weighted share of negatives whose score is not above the threshold; NaN without negatives."""
    return _share((scores <= threshold), ~positive, weights)


def _share(is_right: ndarray, among: ndarray, weights: ndarray) -> ndarray:
    top, bottom = weights @ (is_right & among).astype(np.float64), weights @ among.astype(np.float64)
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
