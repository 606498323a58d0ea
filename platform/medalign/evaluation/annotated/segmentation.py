"""Scoring masks: Dice and IoU per class of images, or of whole volumes, distances of surfaces, and lesions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from medalign.data.images import decode_mask
from medalign.evaluation.annotated.examples import Example
from medalign.evaluation.annotated.scored import Scored, mean_of
from medalign.evaluation.annotated.settings import AnnotatedSettings
from medalign_core.metrics.intervals import Statistic
from medalign_core.metrics.lesions import count_lesions
from medalign_core.metrics.overlap import IGNORED, dice, iou, overlap_counts, weighted_mean
from medalign_core.metrics.surfaces import hausdorff_95, surface_dice, surface_distances

PRIMARY = "dice"
RULES = (
    "Dice and IoU: a class that is neither in the truth nor in the prediction of an {unit} is left out there; one that"
    " is on one side only scores 0.",
    "HD95 is of the {unit}s in which both sides have the class; surface Dice within {tolerance:g} {measure}.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """An image, or a volume of slices in order, with truth and prediction of the same shape."""

    id: str
    group: str
    truth: ndarray
    predicted: ndarray
    spacing: tuple[float, ...] | None
    attributes: Mapping[str, str]


def score_segmentation(
    examples: Sequence[Example],
    predicted: Mapping[str, bytes],
    classes: Sequence[str],
    *,
    settings: AnnotatedSettings,
) -> Scored:
    """Return the statistics of stored masks.

    Args:
        examples: with their masks; those without one are left out.
        predicted: the mask of each image, as a PNG, by its id.
        classes: by mask value, the background first.
        settings: of tolerance and lesions.

    Raises:
        ValueError: no image has both masks, or a volume whose slices differ in size.
    """
    known = [each for each in examples if each.mask is not None and each.id in predicted]
    if not known:
        raise ValueError("no image has a mask")
    is_volumes = all(each.volume for each in known)
    units = list(_volumes(known, predicted) if is_volumes else _images(known, predicted))
    table = np.stack([_measure(unit, len(classes), settings) for unit in units])  # (N, C, 8)
    per_class = {name: _statistics(table[:, place], settings) for place, name in enumerate(classes) if place}
    unit = "volume" if is_volumes else "image"
    measure = "mm" if all(each.spacing for each in units) else "pixels"
    notes = [rule.format(unit=unit, tolerance=settings.tolerance, measure=measure) for rule in RULES]
    missing = len(examples) - len(known)
    return Scored(
        units=unit,
        ids=np.array([each.id for each in units], dtype=object),
        groups=np.array([each.group for each in units], dtype=object),
        attributes=[each.attributes for each in units],
        primary=PRIMARY,
        statistics={
            name: mean_of([statistics[name] for statistics in per_class.values()])
            for name in next(iter(per_class.values()))
        },
        per_class=per_class,
        notes=(*notes[: 2 if settings.surfaces else 1], *([f"{missing:,} images have no mask."] if missing else [])),
    )


def _images(examples: Sequence[Example], predicted: Mapping[str, bytes]) -> Iterator[Unit]:
    for each in examples:
        assert each.mask is not None
        yield Unit(
            id=each.id,
            group=each.group,
            truth=each.mask,
            predicted=decode_mask(predicted[each.id]),
            spacing=each.spacing[1:] if each.spacing else None,
            attributes=each.attributes,
        )


def _volumes(examples: Sequence[Example], predicted: Mapping[str, bytes]) -> Iterator[Unit]:
    by_volume: dict[str, list[Example]] = {}
    for each in examples:
        by_volume.setdefault(str(each.volume), []).append(each)
    for name, slices in sorted(by_volume.items()):
        slices.sort(key=lambda each: each.slice or 0)
        if len({each.size for each in slices}) > 1:
            raise ValueError(f"volume {name} has slices of different sizes")
        yield Unit(
            id=name,
            group=slices[0].group,
            truth=np.stack([each.mask for each in slices if each.mask is not None]),
            predicted=np.stack([decode_mask(predicted[each.id]) for each in slices]),
            spacing=slices[0].spacing,
            attributes=slices[0].attributes,
        )


def _measure(unit: Unit, classes: int, settings: AnnotatedSettings) -> ndarray:
    """Return (C, 8): counts of both, truth and prediction; HD95, surface Dice; lesions found, missed and false."""
    found = np.full((classes, 8), np.nan)
    found[:, :3] = overlap_counts(unit.truth, unit.predicted, classes=classes)
    if not settings.surfaces:
        return found
    known = unit.truth != IGNORED
    for place in range(1, classes):
        truth, predicted = unit.truth == place, (unit.predicted == place) & known
        distances = surface_distances(truth, predicted, spacing=unit.spacing)
        found[place, 3:5] = hausdorff_95(distances), surface_dice(distances, tolerance=settings.tolerance)
        found[place, 5:] = count_lesions(truth, predicted, least_overlap=settings.lesion_overlap)
    return found


def _statistics(table: ndarray, settings: AnnotatedSettings) -> dict[str, Statistic]:
    """Return the statistics of one class from its (N, 8) measures."""
    found = {"dice": _mean(dice(table[:, :3])), "iou": _mean(iou(table[:, :3]))}
    if settings.surfaces:
        lesions = table[:, 5] + table[:, 6]
        found |= {
            "hd95": _mean(table[:, 3]),
            "surface_dice": _mean(table[:, 4]),
            "lesion_sensitivity": _ratio(table[:, 5], lesions),
            "false_lesions": _mean(table[:, 7]),
        }
    return found


def _mean(values: ndarray) -> Statistic:
    return lambda weights: weighted_mean(values, weights)


def _ratio(top: ndarray, bottom: ndarray) -> Callable[[ndarray], ndarray]:
    def value(weights: ndarray) -> ndarray:
        below = weights @ bottom
        return np.divide(weights @ top, below, out=np.full(np.shape(below), np.nan), where=below > 0)

    return value
