"""Scoring class probabilities: per image and per patient, calibration, sensitivity at a fixed specificity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy import ndarray

from medalign.evaluation.annotated.result import OperatingPoint, Reliability
from medalign.evaluation.annotated.scored import Scored
from medalign.evaluation.annotated.settings import AnnotatedSettings
from medalign_core.metrics.calibration import expected_calibration_error, reliability_curve
from medalign_core.metrics.classification import METRICS, classification_scores
from medalign_core.metrics.intervals import Statistic
from medalign_core.metrics.operating_point import sensitivity, specificity, threshold_at_specificity

PRIMARY = "balanced_accuracy"
RULE = "By patient: the mean of the probabilities of a group's images, groups with more than one label left out."


def score_classification(
    table: pa.Table,
    validation: pa.Table | None,
    classes: Sequence[str],
    attributes: Mapping[str, Mapping[str, str]],
    *,
    settings: AnnotatedSettings,
) -> Scored:
    """Return the statistics of stored probabilities.

    Args:
        table: predictions of the scored split.
        validation: predictions of the validation split, which chooses thresholds; None where there is none.
        classes: in the order of the probabilities.
        attributes: of each image, by its id.
        settings: of the specificity and the bins.

    Raises:
        ValueError: no image has a label that is one of the classes.
    """
    ids, groups, labels, chances, left = _arrays(table, classes)
    if not len(ids):
        raise ValueError(f"no image has a label among {', '.join(classes)}")
    notes = [f"{left:,} images have no label among the run's classes and were left out."] if left else []
    statistics = {name: _statistic(labels, chances, name) for name in METRICS}
    statistics["ece"] = lambda weights: expected_calibration_error(labels, chances, weights=weights, bins=settings.bins)
    by_patient = _by_group(groups, labels, chances)
    if by_patient is not None:
        statistics |= by_patient
        notes.append(RULE)
    points: list[tuple[OperatingPoint, Statistic, Statistic]] = []
    if validation is None:
        notes.append("No validation split to choose thresholds on: no sensitivity at a fixed specificity.")
    else:
        points = _points(labels, chances, _arrays(validation, classes), classes, settings.specificity)
    confidence, accuracy, counts = reliability_curve(labels, chances, bins=settings.bins)
    return Scored(
        units="image",
        ids=ids,
        groups=groups,
        attributes=[attributes.get(key, {}) for key in ids],
        primary=PRIMARY,
        statistics=statistics,
        per_class={
            name: {"auroc": _one_against_rest(labels == place, chances[:, place])} for place, name in enumerate(classes)
        },
        operating_points=tuple(points),
        reliability=Reliability(
            confidence=_known(confidence), accuracy=_known(accuracy), counts=tuple(int(n) for n in counts)
        ),
        notes=tuple(notes),
    )


Arrays = tuple[ndarray, ndarray, ndarray, ndarray, int]


def _arrays(table: pa.Table, classes: Sequence[str]) -> Arrays:
    """Return (ids, groups, labels, probabilities) of the rows with a known label, and how many have none."""
    place = {name: index for index, name in enumerate(classes)}
    known = [place.get(label, -1) for label in table["label"].to_pylist()]
    kept = np.flatnonzero(np.array(known, dtype=np.int64) >= 0)
    ids, groups = (np.array(table[name].to_pylist(), dtype=object)[kept] for name in ("id", "group"))
    chances = np.array(table["probabilities"].to_pylist(), dtype=np.float64).reshape(-1, len(classes))[kept]
    return ids, groups, np.array(known, dtype=np.int64)[kept], chances, len(known) - len(kept)


def _statistic(labels: ndarray, chances: ndarray, metric: str) -> Statistic:
    return lambda weights: classification_scores(labels, chances, weights=weights, metrics=[metric])[metric]


def _one_against_rest(positive: ndarray, scores: ndarray) -> Statistic:
    from medalign_core.metrics.classification import auroc

    return lambda weights: auroc(positive.astype(np.int64), scores, weights=weights)


def _by_group(groups: ndarray, labels: ndarray, chances: ndarray) -> dict[str, Statistic] | None:
    """Return statistics of groups as functions of the images' weights; None where each image is its own group."""
    names, first, member = np.unique(groups, return_index=True, return_inverse=True)
    if len(names) == len(groups):
        return None
    sizes = np.bincount(member)
    means = np.stack([np.bincount(member, weights=column) / sizes for column in chances.T], axis=1)
    own = labels[first]
    pure = np.bincount(member, weights=labels != own[member]) == 0

    def statistic(metric: str) -> Statistic:
        # all images of a group have its weight: the first stands for it
        return lambda weights: classification_scores(
            own[pure], means[pure], weights=weights[..., first][..., pure], metrics=[metric]
        )[metric]

    if not pure.any():
        return None
    return {f"{metric}_by_patient": statistic(metric) for metric in ("balanced_accuracy", "auroc")}


def _points(
    labels: ndarray, chances: ndarray, validation: Arrays, classes: Sequence[str], wanted: float
) -> list[tuple[OperatingPoint, Statistic, Statistic]]:
    _, _, known, seen, _ = validation
    found: list[tuple[OperatingPoint, Statistic, Statistic]] = []
    for place, name in enumerate(classes):
        if (known == place).all():
            continue
        threshold = threshold_at_specificity(known == place, seen[:, place], wanted)
        positive, scores = labels == place, chances[:, place]
        found.append(
            (OperatingPoint(name=name, wanted=wanted, threshold=threshold), *_both(positive, scores, threshold))
        )
    return found


def _both(positive: ndarray, scores: ndarray, threshold: float) -> tuple[Statistic, Statistic]:
    return (
        lambda weights: sensitivity(positive, scores, threshold, weights),
        lambda weights: specificity(positive, scores, threshold, weights),
    )


def _known(values: ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)
