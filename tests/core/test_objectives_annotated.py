"""Classification, segmentation and detection around an encoder: what counts, what stays frozen, what is learnt."""

from dataclasses import replace

import pytest
import torch
from annotated_cases import annotated, small_resnet, small_vit
from torch import nn

from medalign_core.objectives.classification.settings import Classification
from medalign_core.objectives.detection.settings import Detection
from medalign_core.objectives.detr.settings import DETR
from medalign_core.objectives.segmentation.settings import Segmentation

CLASSES = ("a", "b", "c")
SETTINGS = {
    "classification": Classification(classes=CLASSES),
    "layers": Classification(classes=CLASSES, hidden=(16, 8)),
    "segmentation": Segmentation(classes=CLASSES, widths=(16, 8), stem_width=4),
    "detection": Detection(classes=CLASSES, width=16, depth=1),
    "detr": DETR(classes=CLASSES, width=16, heads=2, layers=2, mlp_size=16, queries=6, dropout=0.0),
}


def built(name: str, *, frozen: bool = False, encoder: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(1)
    return replace(SETTINGS[name], frozen=frozen).build(encoder or small_resnet()).train()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_every_trained_weight_gets_a_finite_gradient(name: str, make) -> None:
    module = built(name, encoder=make())
    loss, stats = module(annotated())
    loss.backward()
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    missing = [n for n, p in module.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missing == []
    assert all(not value.requires_grad and value.ndim == 0 for value in stats.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_of_a_hole_reaches_the_loss(name: str) -> None:
    batch = annotated()
    images, masks = batch.images.clone(), batch.masks.clone()
    images[-1], masks[-1] = 255 - images[-1], 2 - masks[-1]
    boxes, labels = batch.boxes.clone(), batch.labels.clone()
    boxes[-1] += 3
    labels[-1] = (labels[-1] + 1) % 3
    other = replace(batch, images=images, masks=masks, boxes=boxes, labels=labels)
    module = built(name)
    assert module(batch)[0].item() == module(other)[0].item()
    none = replace(batch, valid=torch.zeros(4, dtype=torch.bool))
    loss, _ = module(none)
    assert loss.item() == 0
    loss.backward()


@pytest.mark.parametrize("name", SETTINGS)
def test_training_the_head_changes_no_weight_and_no_statistic_of_a_frozen_encoder(name: str) -> None:
    module = built(name, frozen=True)
    before = {n: v.clone() for n, v in module.encoder.state_dict().items()}
    trained = [p for p in module.parameters() if p.requires_grad]
    step = torch.optim.Adam(trained, lr=0.01)
    for seed in range(2):
        module.train()
        module(annotated(seed=seed))[0].backward()
        step.step()
    assert all(torch.equal(value, before[n]) for n, value in module.encoder.state_dict().items())
    assert not any(p.requires_grad for p in module.encoder.parameters())


@pytest.mark.parametrize("name", ["layers", "segmentation", "detection"])
def test_a_few_images_are_learnt_by_heart(name: str) -> None:
    module, batch = built(name), annotated(count=4, size=32)
    if name == "segmentation":  # what a convolution can know: the bright pixels
        batch = replace(batch, masks=(batch.images.float().mean(1) > 128).to(torch.uint8))
    step = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        step.zero_grad()
        loss, _ = module(batch)
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_maps_run_from_fine_to_coarse_and_end_with_the_encoder_s_own() -> None:
    encoder, images = small_resnet().eval(), annotated(size=64).images
    maps = encoder.maps(images)
    assert tuple(each.shape[1] for each in maps) == encoder.map_channels == (8, 16, 24)
    assert [each.shape[-1] for each in maps] == [16, 8, 4]
    assert 64 // maps[0].shape[-1] == encoder.finest_stride
    assert torch.equal(maps[-1], encoder(images).map)


@pytest.mark.parametrize("size", [32, 50, 33])
def test_a_mask_is_predicted_at_the_size_of_the_image(size: int) -> None:
    module = built("segmentation").eval()
    assert module.predict(annotated(size=size).images).shape == (4, 3, size, size)


def test_class_weights_are_those_of_torch() -> None:
    batch = replace(annotated(), valid=torch.ones(4, dtype=torch.bool))
    module = replace(SETTINGS["classification"], class_weights=(0.2, 1.0, 3.0)).build(small_resnet()).eval()
    expected = nn.functional.cross_entropy(
        module.predict(batch.images), batch.labels, weight=torch.tensor([0.2, 1.0, 3.0])
    )
    torch.testing.assert_close(module(batch)[0], expected)


def test_unlabelled_images_do_not_count() -> None:
    batch = replace(annotated(), labels=torch.tensor([1, -1, 2, 0]))
    module = built("classification").eval()
    logits = module.predict(batch.images)
    expected = nn.functional.cross_entropy(logits[[0, 2]], batch.labels[[0, 2]])
    torch.testing.assert_close(module(batch)[0], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification(hidden=(0,)), "hidden must hold widths >= 1"),
        (lambda: Classification(classes=("a",)).build(small_resnet()), "classes must be two or more"),
        (lambda: Segmentation(dice_weight=0, cross_entropy_weight=0), "must be >= 0, one above"),
        (lambda: Detection(levels=0), "levels must be >= 1"),
        (lambda: DETR(width=12, heads=4), "width must be a multiple of 4 heads"),
        (lambda: Detection(most_iou=2.0), r"most_iou must be in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_detr_is_transformers_own_with_another_backbone() -> None:
    module = built("detr").eval()
    batch = replace(annotated(size=64), valid=torch.ones(4, dtype=torch.bool))
    said = module.detector(pixel_values=module.encoder(batch.images).map)
    found = module.detect(batch.images)
    best = said.logits.sigmoid()[0].max()
    assert found[0].scores[0] == pytest.approx(best.item())
    query = int(said.logits.sigmoid()[0].max(-1).values.argmax())
    x, y, width, height = (said.pred_boxes[0, query] * 64).tolist()
    expected = [max(0, x - width / 2), max(0, y - height / 2), min(64, x + width / 2), min(64, y + height / 2)]
    assert found[0].boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
