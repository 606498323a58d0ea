"""Classification metrics from arrays: a weighted confusion table, what follows from it, and AUROC by weighted ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")


def classification_scores(
    labels: Int[ndarray, " N"],
    probabilities: Float[ndarray, "N C"],
    *,
    weights: Float[ndarray, "*R N"] | None = None,
    metrics: Sequence[str] = METRICS,
) -> dict[str, Float[ndarray, "*R"]]:
    """Return each of `metrics`; the predicted class is the most probable one (the first, in a tie).

    Args:
        labels: (N,) class indices in [0, C).
        probabilities: (N, C) scores per class, larger is more likely.
        weights: (..., N) >= 0, how often each sample counts; leading axes are independent replicates. None counts
            each sample once.
        metrics: any of `METRICS`.

    Returns:
        One array of shape (...) per metric.

    Raises:
        ValueError: shapes that do not fit, a label outside [0, C), or a metric that is none of `METRICS`.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise ValueError(f"probabilities must be ({len(labels)}, C), got {probabilities.shape}.")
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"no metric {min(unknown)!r}; there are {', '.join(METRICS)}.")
    found = {}
    if set(metrics) & set(_FROM_CONFUSION):
        table = confusion(labels, probabilities.argmax(1), classes=probabilities.shape[1], weights=weights)
        found = {name: metric(table) for name, metric in _FROM_CONFUSION.items()}
    if "auroc" in metrics:
        found["auroc"] = auroc(labels, probabilities, weights=weights)
    return {name: found[name] for name in metrics}


def confusion(
    labels: Int[ndarray, " N"],
    predicted: Int[ndarray, " N"],
    *,
    classes: int,
    weights: Float[ndarray, "*R N"] | None = None,
) -> Float[ndarray, "*R C C"]:
    """Return the confusion table: entry (t, p) is the weight of the samples of class t that were called p.

    Raises:
        ValueError: no samples, shapes that do not fit, or a class outside [0, classes).
    """
    labels, predicted = _indices(labels, classes), _indices(predicted, classes)
    if len(labels) != len(predicted):
        raise ValueError(f"{len(labels)} labels but {len(predicted)} predictions.")
    weights = _weights(weights, len(labels))
    cell = labels * classes + predicted
    occupied, where = np.unique(cell, return_inverse=True)
    table = np.zeros((*weights.shape[:-1], classes * classes))
    table[..., occupied] = weights @ np.eye(len(occupied))[where]  # (..., occupied)
    return table.reshape(*weights.shape[:-1], classes, classes)


def accuracy(table: Float[ndarray, "*R C C"]) -> Float[ndarray, "*R"]:
    """Return the share of samples called by their own class, in [0, 1]; NaN for an empty table."""
    return _divide(_diagonal(table).sum(-1), table.sum((-2, -1)))


def balanced_accuracy(table: Float[ndarray, "*R C C"]) -> Float[ndarray, "*R"]:
    """Return the mean recall over the classes that occur among the labels, in [0, 1]; NaN for an empty table."""
    support = table.sum(-1)
    recall = np.divide(_diagonal(table), support, out=np.zeros_like(support), where=support > 0)
    return _divide(recall.sum(-1), (support > 0).sum(-1))


def macro_f1(table: Float[ndarray, "*R C C"]) -> Float[ndarray, "*R"]:
    """Return the mean of F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c) over the classes that occur, in [0, 1].

    A class occurs when it is some sample's label or prediction. NaN for an empty table.
    """
    total = table.sum(-1) + table.sum(-2)  # 2 TP + FP + FN
    f1 = np.divide(2 * _diagonal(table), total, out=np.zeros_like(total), where=total > 0)
    return _divide(f1.sum(-1), (total > 0).sum(-1))


def auroc(
    labels: Int[ndarray, " N"],
    scores: Float[ndarray, " N"] | Float[ndarray, "N C"],
    *,
    weights: Float[ndarray, "*R N"] | None = None,
) -> Float[ndarray, "*R"]:
    """Return the area under the ROC curve, P(score of a positive > score of a negative) + P(tie) / 2, in [0, 1].

    It is the Mann-Whitney statistic, computed from ranks in O(N log N). Scores of shape (N,) are of class 1 against
    class 0. Scores of shape (N, C) give the unweighted mean of the one-against-rest areas over the classes that have
    both positive and negative weight; where no class has, the area is undefined and NaN.

    Raises:
        ValueError: no samples, shapes that do not fit, NaN scores, or a label outside the classes.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim not in (1, 2) or len(scores) != len(labels):
        raise ValueError(f"scores must be ({len(labels)},) or ({len(labels)}, C), got {scores.shape}.")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN; an area over them is undefined.")
    classes = 2 if scores.ndim == 1 else scores.shape[1]
    labels, weights = _indices(labels, classes), _weights(weights, len(labels))
    if scores.ndim == 1:
        return _area(labels == 1, scores, weights)
    areas = np.stack([_area(labels == c, scores[:, c], weights) for c in range(classes)])  # (C, ...)
    defined = ~np.isnan(areas)
    return _divide(np.where(defined, areas, 0).sum(0), defined.sum(0))


def _area(positive: ndarray, score: ndarray, weights: ndarray) -> ndarray:
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])  # the first place of each run of equal scores
    above = np.add.reduceat(np.where(positive[order], weights[..., order], 0), starts, axis=-1)  # (..., runs)
    below = np.add.reduceat(np.where(positive[order], 0, weights[..., order]), starts, axis=-1)
    beaten = np.cumsum(below, -1) - below / 2  # negatives under this score, and half of those at it
    return _divide((above * beaten).sum(-1), above.sum(-1) * below.sum(-1))


def _diagonal(table: ndarray) -> ndarray:
    return np.diagonal(table, axis1=-2, axis2=-1)


def _divide(top: ndarray, bottom: ndarray) -> ndarray:
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _indices(values: ndarray, classes: int) -> ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"class indices must be one non-empty row, got shape {values.shape}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"class indices must be integers, got {values.dtype}.")
    if values.min() < 0 or values.max() >= classes:
        raise ValueError(f"class indices must lie in [0, {classes}), got {values.min()} to {values.max()}.")
    return values.astype(np.int64)


def _weights(weights: ndarray | None, samples: int) -> ndarray:
    if weights is None:
        return np.ones(samples)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape[-1:] != (samples,):
        raise ValueError(f"weights must be (..., {samples}), got {weights.shape}.")
    return weights


_FROM_CONFUSION = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
