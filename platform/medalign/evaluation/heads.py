"""The two heads of a probe, each solved for a whole grid of its hyperparameter at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

_BLOCK = 1024  # test rows whose similarities are held at once


def standardise(features: Float[ndarray, "M D"], reference: Float[ndarray, "N D"]) -> Float[ndarray, "M D"]:
    """Return (features - mean) / deviation, both of `reference`; a constant feature becomes 0 there."""
    reference = np.asarray(reference, dtype=np.float64)
    mean, deviation = reference.mean(0), reference.std(0)
    return (features - mean) / np.where(deviation > 1e-8, deviation, 1.0)


def logistic(
    train: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    test: Float[ndarray, "M D"],
    *,
    penalties: Sequence[float],
    classes: int,
    iterations: int,
) -> tuple[Float[ndarray, "G M C"], tuple[float, ...]]:
    """Return the class probabilities of a multinomial logistic regression for each C of `penalties`.

    It minimises |W|^2 / 2 + C * sum of the cross-entropies; the intercept is not penalised. The solution lies in the
    row space of `train`, so where D > N the features are first rotated into it, which changes nothing but the cost.

    Args:
        train: (N, D) standardised.
        labels: (N,) in [0, classes), at least two of them different.
        test: (M, D), standardised alike.
        penalties: the values of C, > 0.
        classes: C; a class that `labels` lack gets probability 0.
        iterations: at most, of L-BFGS.

    Returns:
        The probabilities, and the penalties at which L-BFGS did not converge.
    """
    if train.shape[1] > train.shape[0]:
        basis = np.linalg.svd(train, full_matrices=False)[2].T  # (D, N)
        train, test = train @ basis, test @ basis
    found, unconverged = np.zeros((len(penalties), len(test), classes)), []
    model = LogisticRegression(max_iter=iterations, warm_start=True)  # along a rising C each fit starts near its end
    for place in np.argsort(penalties):
        penalty = penalties[place]
        # one thread: L-BFGS takes thousands of small products, whose threads spin against each other on a busy machine
        with warnings.catch_warnings(record=True) as caught, threadpool_limits(limits=1):
            warnings.simplefilter("always", ConvergenceWarning)
            model.set_params(C=penalty).fit(train, labels)
        if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
            unconverged.append(penalty)
        found[place][:, model.classes_] = model.predict_proba(test)
    return found, tuple(unconverged)


def neighbours(
    train: Float[ndarray, "N D"],
    labels: Int[ndarray, " N"],
    test: Float[ndarray, "M D"],
    *,
    counts: Sequence[int],
    classes: int,
    temperature: float,
) -> Float[ndarray, "G M C"]:
    """Return the class shares of the k nearest training samples for each k of `counts`.

    Nearness is the cosine s; a neighbour votes with exp(s / temperature) (Wu et al., Unsupervised Feature Learning
    via Non-Parametric Instance Discrimination, CVPR 2018, section 3.4). Equal cosines rank by place in `train`; a k
    above N means all of them.
    """
    unit, most = _unit(train), min(max(counts), len(train))
    found = np.zeros((len(counts), len(test), classes))
    for start in range(0, len(test), _BLOCK):
        cosine = _unit(test[start : start + _BLOCK]) @ unit.T  # (m, N)
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :most]
        near = np.take_along_axis(cosine, nearest, axis=1)
        votes = np.exp((near - near[:, :1]) / temperature)  # the nearest votes 1, so no sum is 0
        ballots = votes[..., None] * np.eye(classes)[labels[nearest]]  # (m, most, C)
        for place, count in enumerate(counts):
            tally = ballots[:, :count].sum(1)
            found[place, start : start + _BLOCK] = tally / tally.sum(1, keepdims=True)
    return found


def _unit(rows: ndarray) -> ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
