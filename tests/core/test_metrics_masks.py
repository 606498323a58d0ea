"""Dice, IoU, surface distances and lesions: by hand and beside MONAI; average precision beside pycocotools."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medalign_core.metrics.average_precision import ImageBoxes, average_precision, match_boxes
from medalign_core.metrics.calibration import expected_calibration_error, reliability_curve
from medalign_core.metrics.lesions import count_lesions
from medalign_core.metrics.operating_point import sensitivity, specificity, threshold_at_specificity
from medalign_core.metrics.overlap import dice, iou, overlap_counts, weighted_mean
from medalign_core.metrics.surfaces import hausdorff_95, surface_dice, surface_distances


def test_overlap_by_hand() -> None:
    truth = np.array([[0, 1, 1], [1, 255, 2]])
    predicted = np.array([[1, 1, 0], [1, 2, 0]])
    counts = overlap_counts(truth, predicted, classes=3)
    assert counts.tolist() == [[0, 1, 2], [2, 3, 3], [0, 1, 0]]
    assert dice(counts).tolist() == pytest.approx([0, 2 / 3, 0])
    assert iou(counts).tolist() == pytest.approx([0, 0.5, 0])


def test_a_class_that_is_nowhere_has_no_overlap_and_a_false_alarm_has_none_left() -> None:
    empty = np.zeros((4, 4), dtype=int)
    alarm = empty.copy()
    alarm[0, 0] = 1
    assert np.isnan(dice(overlap_counts(empty, empty, classes=2))[1])
    assert dice(overlap_counts(empty, alarm, classes=2))[1] == 0
    assert dice(overlap_counts(alarm, empty, classes=2))[1] == 0
    values = np.array([np.nan, 0.0, 1.0])
    assert weighted_mean(values, np.ones(3)) == 0.5
    assert np.isnan(weighted_mean(values, np.array([1.0, 0, 0])))


def test_dice_and_iou_are_monai_s() -> None:
    metrics = pytest.importorskip("monai.metrics")
    draw = np.random.default_rng(0)
    truth, predicted = draw.integers(4, size=(2, 5, 12, 12))
    truth[0][truth[0] == 3] = 0
    one_hot = [torch.nn.functional.one_hot(torch.tensor(each), 4).movedim(-1, 1) for each in (predicted, truth)]
    counts = np.stack([overlap_counts(t, p, classes=4) for t, p in zip(truth, predicted, strict=True)])
    theirs = metrics.compute_dice(*one_hot, ignore_empty=False).numpy()
    np.testing.assert_allclose(np.nan_to_num(dice(counts), nan=1.0), theirs, rtol=1e-6)
    overlaps = metrics.compute_iou(*one_hot, ignore_empty=False).numpy()
    np.testing.assert_allclose(np.nan_to_num(iou(counts), nan=1.0), overlaps, rtol=1e-6)


@pytest.mark.parametrize("shape", [(24, 20), (8, 12, 10)])
def test_hausdorff_and_surface_dice_are_monai_s(shape: tuple[int, ...]) -> None:
    metrics = pytest.importorskip("monai.metrics")
    draw = np.random.default_rng(1)
    for _ in range(4):
        truth, predicted = (_blob(draw, shape) for _ in range(2))
        both = [torch.tensor(np.stack([~each, each])[None].astype(np.float32)) for each in (predicted, truth)]
        found = surface_distances(truth, predicted)
        theirs = metrics.compute_hausdorff_distance(*both, percentile=95).item()
        assert hausdorff_95(found) == pytest.approx(theirs, rel=1e-5)
        near = metrics.compute_surface_dice(*both, class_thresholds=[1.5]).item()
        assert surface_dice(found, tolerance=1.5) == pytest.approx(near, rel=1e-5)


def test_surface_distances_by_hand_with_spacing() -> None:
    truth, predicted = np.zeros((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    truth[4, 2], predicted[4, 5] = True, True
    found = surface_distances(truth, predicted, spacing=(1.0, 0.5))
    assert hausdorff_95(found) == 1.5
    assert surface_dice(found, tolerance=1.0) == 0
    assert surface_dice(found, tolerance=1.5) == 1
    nothing = np.zeros_like(truth)
    assert np.isnan(hausdorff_95(surface_distances(truth, nothing)))
    assert surface_dice(surface_distances(truth, nothing), tolerance=1.0) == 0
    assert np.isnan(surface_dice(surface_distances(nothing, nothing), tolerance=1.0))


def test_the_surface_distance_is_symmetric_and_zero_to_itself() -> None:
    draw = np.random.default_rng(2)
    first, second = _blob(draw, (20, 20)), _blob(draw, (20, 20))
    assert hausdorff_95(surface_distances(first, first)) == 0
    assert hausdorff_95(surface_distances(first, second)) == hausdorff_95(surface_distances(second, first))


def test_lesions_are_counted_as_components() -> None:
    truth = np.zeros((12, 12), dtype=bool)
    truth[1:3, 1:3] = True
    truth[3, 3] = True  # joined by a corner
    truth[8:10, 8:10] = True
    predicted = np.zeros_like(truth)
    predicted[1, 1] = True
    predicted[0, 11] = predicted[11, 0] = True
    assert count_lesions(truth, predicted) == (1, 1, 2)
    assert count_lesions(truth, predicted, least_overlap=0.5) == (0, 2, 2)
    assert count_lesions(np.zeros_like(truth), np.zeros_like(truth)) == (0, 0, 0)
    with pytest.raises(ValueError, match="least_overlap must lie in"):
        count_lesions(truth, truth, least_overlap=0.0)


def test_average_precision_is_pycocotools_s() -> None:
    truth, found = _scene(np.random.default_rng(3), images=12, classes=3)
    expected = _pycocotools(truth, found, classes=3)
    for c in range(3):
        ours = average_precision(match_boxes(truth, found, c))
        np.testing.assert_allclose(ours, expected[:, c], atol=1e-9)


def test_average_precision_by_hand() -> None:
    square = np.array([[0.0, 0, 10, 10]])
    truth = [ImageBoxes(boxes=square, classes=np.array([0])), ImageBoxes(boxes=square, classes=np.array([0]))]
    found = [
        ImageBoxes(boxes=square, classes=np.array([0]), scores=np.array([0.9])),
        ImageBoxes(boxes=square + 100, classes=np.array([0]), scores=np.array([0.95])),
    ]
    # surest is wrong, then one of two is right: precision 1/2 up to recall 1/2
    assert average_precision(match_boxes(truth, found, 0))[0] == pytest.approx(0.5 * 51 / 101)
    assert np.isnan(average_precision(match_boxes(truth, found, 1))).all()
    nothing = [ImageBoxes(boxes=np.zeros((0, 4)), classes=np.zeros(0, int), scores=np.zeros(0))] * 2
    assert (average_precision(match_boxes(truth, nothing, 0)) == 0).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_weights_count_images_as_often_as_they_say(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth, found = _scene(draw, images=5, classes=1)
    weights = draw.integers(0, 3, size=(2, 5))
    weighted = average_precision(match_boxes(truth, found, 0), weights)
    for row, expected in zip(weights, weighted, strict=True):
        again = [(t, f) for t, f, w in zip(truth, found, row, strict=True) for _ in range(w)]
        if not again:
            assert np.isnan(expected).all()
            continue
        repeated = average_precision(match_boxes([t for t, _ in again], [f for _, f in again], 0))
        np.testing.assert_allclose(expected, repeated, atol=1e-9)


def test_a_threshold_keeps_the_specificity_where_it_was_chosen() -> None:
    draw = np.random.default_rng(0)
    positive, scores = draw.random(200) < 0.4, draw.random(200)
    weights = np.ones(200)
    for wanted in (0.5, 0.9, 1.0):
        threshold = threshold_at_specificity(positive, scores, wanted)
        got = specificity(positive, scores, threshold, weights)
        assert wanted <= got < wanted + 1 / (~positive).sum() + 1e-9
    by_hand = np.array([False, False, False, True, True]), np.array([0.1, 0.2, 0.6, 0.5, 0.7])
    threshold = threshold_at_specificity(*by_hand, 2 / 3)
    assert threshold == 0.2
    assert sensitivity(*by_hand, threshold, np.ones(5)) == 1
    with pytest.raises(ValueError, match="no negatives"):
        threshold_at_specificity(np.array([True]), np.array([0.5]), 0.9)


def test_the_reliability_curve_weighs_up_to_the_calibration_error() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(3), size=300)
    labels = draw.integers(3, size=300)
    confidence, accuracy, counts = reliability_curve(labels, probabilities, bins=10)
    gap = np.nansum(np.abs(confidence - accuracy) * counts) / counts.sum()
    assert gap == pytest.approx(float(expected_calibration_error(labels, probabilities, bins=10)))


def _blob(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    centre = [draw.uniform(0.35, 0.65) * size for size in shape]
    places = np.indices(shape)
    away = sum((p - c) ** 2 for p, c in zip(places, centre, strict=True)) ** 0.5
    return away < draw.uniform(2, 4)


def _scene(draw: np.random.Generator, *, images: int, classes: int) -> tuple[list[ImageBoxes], list[ImageBoxes]]:
    truth, found = [], []
    for _ in range(images):
        count = draw.integers(0, 5)
        corner = draw.uniform(0, 60, size=(count, 2))
        boxes = np.concatenate([corner, corner + draw.uniform(8, 30, size=(count, 2))], axis=1)
        labels = draw.integers(classes, size=count)
        truth.append(ImageBoxes(boxes=boxes, classes=labels))
        moved = np.concatenate([boxes + draw.normal(scale=3, size=boxes.shape), draw.uniform(0, 20, size=(3, 4))])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 2)
        called = np.concatenate([labels, draw.integers(classes, size=3)])
        found.append(ImageBoxes(boxes=moved, classes=called, scores=draw.random(len(moved))))
    return truth, found


def _pycocotools(truth: list[ImageBoxes], found: list[ImageBoxes], *, classes: int) -> np.ndarray:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def sides(box: np.ndarray) -> list[float]:
        return [*box[:2], box[2] - box[0], box[3] - box[1]]

    notes = [
        {"image_id": i, "category_id": int(c), "bbox": sides(b), "area": float(np.prod(b[2:] - b[:2])), "iscrowd": 0}
        for i, each in enumerate(truth)
        for b, c in zip(each.boxes, each.classes, strict=True)
    ]
    results = [
        {"image_id": i, "category_id": int(c), "bbox": sides(b), "score": float(s)}
        for i, each in enumerate(found)
        for b, c, s in zip(each.boxes, each.classes, each.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "annotations": [{**note, "id": n + 1} for n, note in enumerate(notes)],
            "categories": [{"id": c} for c in range(classes)],
        }
        known.createIndex()
        run = evaluation.COCOeval(known, known.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][:, :, :, 0, 2].mean(1)  # (T, R, K, area, most) -> (T, K)
