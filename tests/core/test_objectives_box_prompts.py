"""Box-prompted segmentation: SAM's own masks from its own map, boxes in pixels whatever the batch, what is learnt."""

from dataclasses import replace

import pytest
import torch
from annotated_cases import annotated, small_resnet, small_vit

from medalign_core.models.dense.prompted import PromptedDecoder, new_sam
from medalign_core.objectives.box_prompts.module import grow_boxes, mask_boxes, mask_loss
from medalign_core.objectives.box_prompts.settings import BoxPrompts

SETTINGS = BoxPrompts(width=16, layers=1, heads=2, mlp_size=16, classes=("background", "organ", "lesion"))


def tiny_sam() -> torch.nn.Module:
    torch.manual_seed(0)
    return new_sam(width=16, layers=1, heads=2, mlp_size=16, side=64).eval()


def test_sam_s_own_map_and_boxes_give_sam_s_own_masks() -> None:
    sam = tiny_sam()
    decoder = PromptedDecoder(sam, channels=16).eval()
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn((3, 3, 64, 64), generator=draw)
    boxes = torch.tensor([[[4.0, 8, 30, 40], [0, 0, 64, 64]]] * 3) + torch.arange(3)[:, None, None]
    expected = sam(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[:, :, 0]
    found = sam.get_image_embeddings(pixels)
    side = expected.shape[-1]
    ours = decoder(found, boxes, (64, 64))
    whole = torch.nn.functional.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)
    assert side == 16
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_box_means_the_same_in_a_batch_of_one_and_of_many_and_at_any_size(size: tuple[int, int]) -> None:
    decoder = PromptedDecoder(tiny_sam(), channels=16).eval()
    draw = torch.Generator().manual_seed(1)
    found = torch.randn((300, 16, 2, 3), generator=draw)
    boxes = torch.rand((300, 1, 4), generator=draw) * 40
    many = decoder(found, boxes, size)
    for number in (0, 7, 299):
        alone = decoder(found[number : number + 1], boxes[number : number + 1], size)
        torch.testing.assert_close(alone[0], many[number], rtol=1e-4, atol=1e-5)
    twice = decoder(found[:2], 2 * boxes[:2], (2 * size[0], 2 * size[1]))
    smaller = torch.nn.functional.interpolate(twice, size=size, mode="bilinear", antialias=False)
    assert (smaller - many[:2]).abs().mean() < 0.1 * many[:2].abs().mean()


def test_boxes_are_those_of_the_masks() -> None:
    masks = torch.zeros((2, 10, 12), dtype=torch.uint8)
    masks[0, 2:5, 3:9] = 1
    masks[1, 9, 11] = 2
    masks[1, 0, 0] = 255
    boxes, there = mask_boxes(masks, masks != 255, classes=3)
    assert boxes.tolist() == [[[3, 2, 9, 5], [0, 0, 12, 10]], [[0, 0, 12, 10], [11, 9, 12, 10]]]
    assert there.tolist() == [[True, False], [False, True]]
    grown = grow_boxes(torch.tensor([[[100.0, 200, 300, 400]]]), 8.0, size=(512, 256))
    assert grown.tolist() == [[[92, 184, 256, 416]]]


def test_the_mask_loss_is_monai_s() -> None:
    losses = pytest.importorskip("monai.losses")
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((4, 1, 8, 9), generator=draw)
    masks = torch.randint(2, (4, 8, 9), generator=draw, dtype=torch.uint8)
    ours = mask_loss(logits, masks, torch.ones_like(masks, dtype=torch.bool), torch.ones((4, 1), dtype=torch.bool))
    theirs = losses.DiceCELoss(sigmoid=True, squared_pred=True)(logits, masks[:, None].float())
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("make", [small_resnet, small_vit])
@pytest.mark.parametrize("frozen", [True, False])
def test_every_trained_weight_gets_a_gradient_and_no_frozen_one_does(make, frozen: bool) -> None:
    settings = replace(SETTINGS, frozen=frozen, frozen_prompts=frozen)
    module = settings.build(make(), tiny_sam()).train()
    loss, _ = module(annotated())
    loss.backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert [n for n in missing if not n.startswith("decoder.prompt_encoder")] == []
    assert any(n.startswith("encoder.") for n, p in module.named_parameters() if p.grad is not None) != frozen


def test_nothing_of_a_hole_and_nothing_of_an_absent_class_reaches_the_loss() -> None:
    batch = annotated()
    module = SETTINGS.build(small_resnet(), tiny_sam()).train()
    other = replace(batch, masks=torch.cat([batch.masks[:-1], 2 - batch.masks[-1:]]))
    assert module(batch)[0].item() == module(other)[0].item()
    empty = replace(batch, masks=torch.zeros_like(batch.masks))
    assert module(empty)[0].item() == 0


def test_a_mask_within_its_box_is_learnt() -> None:
    batch = annotated(count=4, size=32)
    masks = torch.zeros_like(batch.masks)
    for number in range(4):
        masks[number, 4 + number : 20, 6 : 18 + number] = 1
    batch = replace(batch, masks=masks)
    torch.manual_seed(0)
    module = replace(SETTINGS, growth=1).build(small_resnet(), tiny_sam()).train()
    step = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(60):
        step.zero_grad()
        loss, _ = module(batch)
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    predicted = module.eval().predict(batch.images, batch.masks).argmax(1)
    assert predicted.shape == batch.masks.shape
    assert not (predicted == 2).any()  # a class without a box is never predicted
