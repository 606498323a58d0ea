"""Scoring boxes: COCO's average precision, and its AP50, over images and per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from medalign.evaluation.annotated.examples import Example
from medalign.evaluation.annotated.scored import Scored, mean_of
from medalign_core.metrics.average_precision import ImageBoxes, Matches, average_precision, match_boxes
from medalign_core.metrics.intervals import Statistic

PRIMARY = "ap50"
RULE = "AP: 101 recalls, at most 100 boxes of a class in an image, mean over IoU 0.50 to 0.95; AP50 at 0.50 alone."


def score_detection(
    examples: Sequence[Example], predicted: Mapping[str, list[dict[str, Any]]], classes: Sequence[str]
) -> Scored:
    """Return the statistics of stored boxes.

    Args:
        examples: with their boxes; those without an annotation are left out.
        predicted: the boxes found in each image, by its id.
        classes: their names.

    Raises:
        ValueError: no image has boxes of the classes.
    """
    known = [each for each in examples if each.boxes is not None and each.id in predicted]
    others = sum(box["label"] not in classes for each in known for box in each.boxes or ())
    truth = [_boxes(each.boxes or [], classes) for each in known]
    found = [_boxes(predicted[each.id], classes, scored=True) for each in known]
    if not sum(len(each.boxes) for each in truth):
        raise ValueError(f"no image has boxes of {', '.join(classes)}")
    per_class: dict[str, dict[str, Statistic]] = {}
    for place, name in enumerate(classes):
        matches = match_boxes(truth, found, place)
        per_class[name] = {"ap50": _at_half(matches), "ap": _over_all(matches)}
    notes = [RULE]
    if others:
        notes.append(f"{others:,} boxes are of classes that the run does not know and were left out.")
    return Scored(
        units="image",
        ids=np.array([each.id for each in known], dtype=object),
        groups=np.array([each.group for each in known], dtype=object),
        attributes=[each.attributes for each in known],
        primary=PRIMARY,
        statistics={name: mean_of([each[name] for each in per_class.values()]) for name in ("ap50", "ap")},
        per_class=per_class,
        notes=tuple(notes),
    )


def _boxes(said: Sequence[Mapping[str, Any]], classes: Sequence[str], *, scored: bool = False) -> ImageBoxes:
    place = {name: index for index, name in enumerate(classes)}
    own = [box for box in said if box["label"] in place]
    corners = np.array([[box[name] for name in ("left", "top", "right", "bottom")] for box in own], dtype=np.float64)
    return ImageBoxes(
        boxes=corners.reshape(-1, 4),
        classes=np.array([place[box["label"]] for box in own], dtype=np.int64),
        scores=np.array([box["score"] for box in own], dtype=np.float64) if scored else None,
    )


def _at_half(matches: Matches) -> Statistic:
    first = Matches(
        images=matches.images,
        scores=matches.scores,
        right=matches.right[:1],
        true=matches.true,
        thresholds=matches.thresholds[:1],
    )

    def value(weights: ndarray) -> ndarray:
        return average_precision(first, weights)[..., 0]

    return value


def _over_all(matches: Matches) -> Statistic:
    return lambda weights: average_precision(matches, weights).mean(-1)
