"""Calibration: how far confidence is from accuracy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def expected_calibration_error(
    labels: Int[ndarray, " N"],
    probabilities: Float[ndarray, "N C"],
    *,
    weights: Float[ndarray, "*R N"] | None = None,
    bins: int = 15,
) -> Float[ndarray, "*R"]:
    """Return ECE = sum_b (n_b / n) |accuracy_b - confidence_b| over equal bins of the largest probability.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C), rows sum to 1.
        weights: (..., N) >= 0, how often each sample counts; leading axes are independent replicates.
        bins: of (0, 1].

    Raises:
        ValueError: fewer than one bin, or shapes that do not fit.
    """
    if bins < 1 or probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise ValueError(f"bins must be >= 1 and probabilities ({len(labels)}, C), got {bins}, {probabilities.shape}.")
    confidence = probabilities.max(1)
    is_right = probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = (is_right - confidence)[:, None] * np.eye(bins)[place]  # (N, bins)
    counts = np.ones((1, len(labels))) if weights is None else np.asarray(weights, dtype=np.float64)
    error = np.abs(counts @ gap).sum(-1) / counts.sum(-1)
    return error[0] if weights is None else error


def reliability_curve(
    labels: Int[ndarray, " N"], probabilities: Float[ndarray, "N C"], *, bins: int = 15
) -> tuple[Float[ndarray, " bins"], Float[ndarray, " bins"], Int[ndarray, " bins"]]:
    """Return (mean confidence, accuracy, number of samples) of equal bins of the largest probability.

    An empty bin has NaN for the first two. The curve of a calibrated model is the diagonal, and its distance from it,
    weighted by the numbers, is the expected calibration error.

    Raises:
        ValueError: fewer than one bin, or shapes that do not fit.
    """
    if bins < 1 or probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise ValueError(f"bins must be >= 1 and probabilities ({len(labels)}, C), got {bins}, {probabilities.shape}.")
    confidence = probabilities.max(1)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [
        np.bincount(place, weights=each, minlength=bins) for each in (confidence, probabilities.argmax(1) == labels)
    ]
    means = [np.divide(each, counts, out=np.full(bins, np.nan), where=counts > 0) for each in sums]
    return means[0], means[1], counts
