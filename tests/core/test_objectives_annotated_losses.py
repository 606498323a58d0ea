"""Losses of segmentation and detection beside MONAI's, and which box a place learns, by hand."""

import pytest
import torch
from annotated_cases import annotated, small_resnet

from medalign_core.models.dense.fcos import Located
from medalign_core.objectives.box_prompts.module import mask_loss
from medalign_core.objectives.detection.assignment import assign
from medalign_core.objectives.detection.module import detection_losses, focal_terms
from medalign_core.objectives.detection.settings import Detection
from medalign_core.objectives.segmentation.loss import batch_dice, dice_loss, known_pixels, pixel_cross_entropy
from medalign_core.ops.boxes import box_iou, generalized_iou, suppress


def test_the_dice_loss_is_monai_s_over_a_batch() -> None:
    losses = pytest.importorskip("monai.losses")
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 4, 9, 8), generator=draw, requires_grad=True)
    masks = torch.randint(4, (3, 9, 8), generator=draw)
    known = torch.ones_like(masks, dtype=torch.bool)
    theirs = losses.DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    ours, expected = dice_loss(logits, masks, known), theirs(logits, masks[:, None])
    torch.testing.assert_close(ours, expected)
    (found,) = torch.autograd.grad(ours, logits)
    (due,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, due)


def test_ignored_pixels_count_in_no_loss() -> None:
    batch = annotated()
    masks = batch.masks.clone()
    masks[:, :7] = 255
    known = known_pixels(masks, torch.ones(4, dtype=torch.bool))
    logits = torch.randn((4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    cut = logits[:, :, 7:], masks[:, 7:], known[:, 7:]
    for loss in (pixel_cross_entropy, dice_loss):
        torch.testing.assert_close(loss(logits, masks, known), loss(*cut))
    expected = torch.nn.functional.cross_entropy(logits, masks.long(), ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, masks, known), expected)
    assert dice_loss(logits, masks, torch.zeros_like(known)) == 0


def test_batch_dice_by_hand() -> None:
    masks = torch.tensor([[[0, 1, 1, 0]]])
    predicted = torch.tensor([[[0, 1, 0, 0]]])
    known = torch.ones_like(masks, dtype=torch.bool)
    assert batch_dice(predicted, masks, known, classes=3) == pytest.approx(2 / 3)  # class 2 is nowhere: left out


def test_overlaps_by_hand_and_beside_monai() -> None:
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    second = torch.tensor([[1.0, 0, 3, 2], [2, 0, 3, 1]])
    torch.testing.assert_close(box_iou(first, second)[0], torch.tensor([1 / 3, 0.0]))
    torch.testing.assert_close(generalized_iou(first, second), torch.tensor([1 / 3, -1 / 3]))
    utils = pytest.importorskip("monai.data.box_utils")
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand((20, 2), generator=draw) * 10
    boxes = torch.cat([boxes, boxes + torch.rand((20, 2), generator=draw) * 6 + 0.5], dim=1)
    torch.testing.assert_close(box_iou(boxes, boxes), utils.box_iou(boxes, boxes))
    torch.testing.assert_close(generalized_iou(boxes[:10], boxes[10:]), utils.box_pair_giou(boxes[:10], boxes[10:]))
    scores = torch.rand(20, generator=draw)
    kept = suppress(boxes, scores, torch.zeros(20, dtype=torch.long), most_iou=0.3)
    assert kept.tolist() == utils.non_max_suppression(boxes, scores, 0.3).tolist()
    by_class = suppress(boxes, scores, torch.arange(20), most_iou=0.0)
    assert len(by_class) == 20


def test_generalized_iou_has_a_gradient_where_boxes_do_not_meet() -> None:
    draw = torch.Generator().manual_seed(0)
    first = torch.tensor([[0.0, 0, 2, 2], [5, 5, 6, 8]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[1.0, 1, 3, 4], [0, 0, 1, 1]], dtype=torch.float64) + 0.1 * torch.rand(
        (2, 4), generator=draw, dtype=torch.float64
    )
    assert torch.autograd.gradcheck(lambda x: generalized_iou(x, second), first)
    (slope,) = torch.autograd.grad(generalized_iou(first, second)[1], first)
    assert slope.abs().sum() > 0


def test_focal_terms_are_monai_s_and_cross_entropy_without_gamma() -> None:
    losses = pytest.importorskip("monai.losses")
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((5, 3, 7), generator=draw)
    truth = (torch.rand((5, 3, 7), generator=draw) > 0.7).float()
    theirs = losses.FocalLoss(gamma=2.0, alpha=0.25, reduction="none")(logits, truth)
    torch.testing.assert_close(focal_terms(logits, truth, alpha=0.25, gamma=2.0), theirs)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    torch.testing.assert_close(focal_terms(logits, truth, alpha=0.5, gamma=0.0), plain / 2)


def test_losses_have_the_gradients_that_differences_give() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 3, 2), generator=draw, dtype=torch.float64, requires_grad=True)
    masks = torch.randint(3, (2, 3, 2), generator=draw, dtype=torch.uint8)
    masks[0, 0, 0] = 255
    known = known_pixels(masks, torch.ones(2, dtype=torch.bool))
    there = torch.tensor([[True, False], [True, True]])
    for loss in (
        lambda x: pixel_cross_entropy(x, masks, known),
        lambda x: dice_loss(x, masks, known),
        lambda x: mask_loss(x[:, 1:], masks, known, there),
        lambda x: focal_terms(x, (x.detach() > 0).to(x.dtype), alpha=0.25, gamma=2.0).sum(),
    ):
        assert torch.autograd.gradcheck(loss, logits)


def test_a_place_learns_the_smallest_box_that_holds_it_near_its_centre() -> None:
    places = torch.tensor([[8.0, 8.0], [20.0, 8.0], [40.0, 8.0]])
    strides = torch.full((3,), 8.0)
    boxes = torch.tensor([[[0.0, 0, 16, 16], [0, 0, 30, 20], [90, 90, 99, 99]]])
    found = assign(places, strides, boxes, torch.tensor([[2, 1, -1]]), centre_radius=1.5)
    assert found.classes.tolist() == [[2, 1, -1]]
    assert found.central[0, 0] == 1
    # of the second: left 20, right 10, top 8, bottom 12
    assert found.central[0, 1].item() == pytest.approx((10 / 20 * 8 / 12) ** 0.5)
    assert found.boxes[0, 2].tolist() == [0, 0, 0, 0]


def test_large_boxes_are_learnt_by_coarse_places() -> None:
    places, strides = torch.tensor([[50.0, 50.0], [50.0, 50.0]]), torch.tensor([4.0, 16.0])
    boxes = torch.tensor([[[10.0, 10, 90, 90]]])
    found = assign(places, strides, boxes, torch.tensor([[0]]), centre_radius=1.5)
    assert found.classes.tolist() == [[-1, 0]]


def test_images_without_boxes_are_all_background() -> None:
    places, strides = torch.tensor([[4.0, 4.0]]), torch.tensor([8.0])
    found = assign(places, strides, torch.zeros((2, 0, 4)), torch.zeros((2, 0), dtype=torch.long), centre_radius=1.5)
    assert found.classes.tolist() == [[-1], [-1]]
    located = Located(torch.zeros((2, 1, 1)), torch.ones((2, 1, 4)), torch.zeros((2, 1)), places, strides)
    losses, overlap = detection_losses(located, found, torch.ones(2, dtype=torch.bool), alpha=0.25, gamma=2.0)
    assert losses["class"].item() == pytest.approx(2 * 0.75 * 0.25 * 0.6931472, rel=1e-5)
    assert (losses["box"], losses["central"], overlap) == (0, 0, 0)


def test_perfect_places_give_back_their_boxes() -> None:
    places, strides = torch.tensor([[8.0, 8.0], [24.0, 8.0]]), torch.full((2,), 8.0)
    boxes = torch.tensor([[[2.0, 3, 14, 15]]])
    due = assign(places, strides, boxes, torch.tensor([[1]]), centre_radius=1.5)
    sides = torch.tensor([[[6.0, 5, 6, 7], [1, 1, 1, 1]]])
    logits = torch.tensor([[[-20.0, 20.0], [-20, -20]]])
    losses, overlap = detection_losses(
        Located(logits, sides, torch.zeros((1, 2)), places, strides), due, torch.tensor([True]), alpha=0.25, gamma=2.0
    )
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)
    assert losses["class"].item() == pytest.approx(0, abs=1e-6)
    assert overlap == pytest.approx(1)


def test_detections_lie_in_the_image_best_first_and_no_more_than_asked_for() -> None:
    torch.manual_seed(0)
    settings = Detection(classes=("a", "b"), width=16, depth=1, least_score=0.0, most_boxes=7)
    found = settings.build(small_resnet()).eval().detect(annotated(size=48).images)
    assert len(found) == 4
    for each in found:
        assert len(each.boxes) == 7
        assert each.boxes.min() >= 0
        assert each.boxes.max() <= 48
        assert each.scores.tolist() == sorted(each.scores.tolist(), reverse=True)
        assert (each.scores <= 1).all()
