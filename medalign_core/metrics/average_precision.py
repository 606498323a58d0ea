"""Average precision of boxes as COCO has it: matching per image, 101 recall points; weights for the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real
from numpy import ndarray

IOU_THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
_RECALLS = np.linspace(0, 1, 101)
_CHUNK = 2_000_000  # numbers held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBoxes:
    """The boxes of one image, true or found.

    Attributes:
        boxes: (K, 4) (left, top, right, bottom).
        classes: (K,) class index.
        scores: (K,) of found boxes, larger is surer; None of true ones.
    """

    boxes: Float[ndarray, "K 4"]
    classes: Int[ndarray, " K"]
    scores: Float[ndarray, " K"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """The found boxes of one class in all images, surest first, each right or wrong at every IoU threshold.

    Attributes:
        images: (D,) which image each is of.
        scores: (D,) in falling order.
        right: (T, D) whether it is matched to a true box at each threshold.
        true: (N,) number of true boxes of the class in each image.
        thresholds: (T,) the thresholds.
    """

    images: Int[ndarray, " D"]
    scores: Float[ndarray, " D"]
    right: ndarray
    true: Int[ndarray, " N"]
    thresholds: tuple[float, ...]


def match_boxes(
    truth: Sequence[ImageBoxes],
    found: Sequence[ImageBoxes],
    class_index: int,
    *,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    most: int = 100,
) -> Matches:
    """Match the found boxes of a class to the true ones, image by image, surest first, as pycocotools does.

    A found box takes, of the true boxes of its class that are still free and overlap it by at least the threshold, the
    one that it overlaps most. Of an image the `most` surest boxes of a class count.

    Raises:
        ValueError: truth and found of different lengths, or found boxes without scores.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} images with truth but {len(found)} with found boxes.")
    images, scores, right = [], [], []
    true = np.zeros(len(truth), dtype=np.int64)
    for number, (due, got) in enumerate(zip(truth, found, strict=True)):
        if got.scores is None:
            raise ValueError("found boxes must have scores.")
        own, theirs = due.boxes[due.classes == class_index], got.boxes[got.classes == class_index]
        surest = np.argsort(-got.scores[got.classes == class_index], kind="stable")[:most]
        true[number] = len(own)
        images.append(np.full(len(surest), number))
        scores.append(got.scores[got.classes == class_index][surest])
        right.append(_match(theirs[surest], own, thresholds))
    of = np.concatenate(scores) if scores else np.zeros(0)
    order = np.argsort(-of, kind="stable")
    return Matches(
        images=np.concatenate(images)[order] if images else np.zeros(0, dtype=np.int64),
        scores=of[order],
        right=np.concatenate(right, axis=1)[:, order] if right else np.zeros((len(thresholds), 0), dtype=bool),
        true=true,
        thresholds=tuple(thresholds),
    )


def average_precision(matches: Matches, weights: Real[ndarray, "*R N"] | None = None) -> Float[ndarray, "*R T"]:
    """Return the AP at each threshold: the mean over 101 recalls of the best precision at that recall or beyond.

    Args:
        matches: of one class.
        weights: (..., N) how often each image counts; leading axes are independent replicates. None counts each once.

    Returns:
        (..., T); NaN where no true box has weight.
    """
    if weights is None:
        return average_precision(matches, np.ones((1, len(matches.true))))[0]
    weights = np.asarray(weights, dtype=np.float64)
    flat = weights.reshape(-1, weights.shape[-1])
    step = max(1, _CHUNK // max(1, len(matches.scores)))
    parts = [_precision(matches, flat[low : low + step]) for low in range(0, len(flat), step)]
    return np.concatenate(parts).reshape(*weights.shape[:-1], len(matches.thresholds))


def _precision(matches: Matches, weights: ndarray) -> ndarray:
    total = weights @ matches.true
    found = np.full((len(weights), len(matches.thresholds)), np.nan)
    each = weights[:, matches.images]
    counted = each.cumsum(1)
    for t, right in enumerate(matches.right):
        hits = (each * right).cumsum(1)
        precision = hits / (counted + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for r in np.flatnonzero(total > 0):
            at = np.searchsorted(hits[r] / total[r], _RECALLS, side="left")
            found[r, t] = (
                np.where(at < hits.shape[1], best[r][np.minimum(at, hits.shape[1] - 1)], 0).mean()
                if hits.shape[1]
                else 0
            )
    return found


def _match(found: ndarray, truth: ndarray, thresholds: Sequence[float]) -> ndarray:
    """Return (T, D) whether each found box, surest first, gets a true one."""
    right = np.zeros((len(thresholds), len(found)), dtype=bool)
    if not len(found) or not len(truth):
        return right
    overlap = _iou(found, truth)
    for t, threshold in enumerate(thresholds):
        free = np.ones(len(truth), dtype=bool)
        for d in range(len(found)):
            open_to = np.where(free, overlap[d], -1.0)
            # the last of equals, as pycocotools has it
            best = len(truth) - 1 - int(open_to[::-1].argmax())
            if open_to[best] >= min(threshold, 1 - 1e-10):
                right[t, d], free[best] = True, False
    return right


def _iou(first: ndarray, second: ndarray) -> ndarray:
    first, second = first.astype(np.float64), second.astype(np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.prod((high - low).clip(min=0), axis=-1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=-1) for each in (first, second)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)
