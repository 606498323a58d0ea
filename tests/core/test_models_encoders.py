import copy

import pytest
import torch
from transformers import ResNetModel, ViTModel

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.settings import IMAGENET_MEAN, IMAGENET_STD, ResNet, ViT

TINY_RESNET = ResNet(layer_type="basic", embedding_size=8, hidden_sizes=(8, 16, 24), depths=(1, 1, 1))
TINY_VIT = ViT(image_size=32, patch_size=8, hidden_size=16, layers=2, heads=2, mlp_size=32)


def images(rows: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, height, width), generator=draws, dtype=torch.uint8)


def build(settings: ResNet | ViT) -> ImageEncoder:
    torch.manual_seed(0)
    return settings.build().eval()


@pytest.mark.parametrize(("settings", "size", "grid"), [(TINY_RESNET, 24, (2, 2)), (TINY_VIT, 16, (4, 4))])
def test_an_encoder_gives_a_map_and_its_mean(settings, size, grid):
    encoder = build(settings)
    features = encoder(images())
    assert encoder.feature_size == size
    assert features.map.shape == (3, size, *grid)
    torch.testing.assert_close(features.pooled, features.map.mean(dim=(2, 3)))


def test_pixels_are_normalised_before_the_backbone_and_nothing_else_happens():
    encoder = build(TINY_RESNET)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = encoder.backbone(pixel_values=(images().float() / 255 - mean) / std)
    torch.testing.assert_close(encoder(images()).map, expected.last_hidden_state)
    torch.testing.assert_close(encoder(images()).pooled, expected.pooler_output.flatten(1))


def test_the_transformers_map_has_its_patches_in_place_and_no_class_token():
    encoder = build(TINY_VIT)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    tokens = encoder.backbone(pixel_values=(images().float() / 255 - mean) / std).last_hidden_state
    feature_map = encoder(images()).map
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(feature_map[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_a_transformer_takes_other_sizes_by_interpolating_its_positions():
    assert build(TINY_VIT)(images(height=48, width=16)).map.shape == (3, 16, 6, 2)


def test_a_resnet_takes_images_that_are_not_square():
    assert build(TINY_RESNET)(images(height=64, width=32)).map.shape == (3, 24, 4, 2)


@pytest.mark.parametrize("settings", [TINY_RESNET, TINY_VIT])
def test_half_precision_sees_pixels_that_were_normalised_in_single_precision(settings):
    encoder = build(settings).to(torch.bfloat16)
    seen = []
    encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    assert encoder(images()).map.dtype == torch.bfloat16
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert (seen[0] == ((images().float() / 255 - mean) / std).to(torch.bfloat16)).all()


def test_the_defaults_are_resnet_50_and_vit_b_16():
    with torch.device("meta"):
        resnet, vit = ResNet().build(), ViT().build()
    # torchvision's resnet50 has 25,557,032 and its vit_b_16 86,567,656 parameters, classifiers of 1000 included
    assert sum(p.numel() for p in resnet.parameters()) == 25_557_032 - (2048 * 1000 + 1000)
    assert sum(p.numel() for p in vit.parameters()) == 86_567_656 - (768 * 1000 + 1000)
    assert (resnet.feature_size, vit.feature_size) == (2048, 768)


@pytest.mark.parametrize(("settings", "kind"), [(TINY_RESNET, ResNetModel), (TINY_VIT, ViTModel)])
def test_a_backbone_saved_by_transformers_loads_and_gives_the_same_features(tmp_path, settings, kind):
    encoder = build(settings)
    encoder.backbone.save_pretrained(tmp_path)
    options = {} if kind is ResNetModel else {"add_pooling_layer": False}
    again = settings.build(kind.from_pretrained(tmp_path, **options)).eval()
    torch.testing.assert_close(again(images()).map, encoder(images()).map, rtol=0, atol=0)


def test_every_parameter_gets_a_gradient():
    for settings in (TINY_RESNET, TINY_VIT):
        encoder = build(settings)
        features = encoder(images())
        (features.map.square().sum() + features.pooled.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_an_encoder_can_be_copied_and_has_no_state_but_its_backbones():
    encoder = build(TINY_RESNET)
    assert all(name.startswith("backbone.") for name in encoder.state_dict())
    torch.testing.assert_close(copy.deepcopy(encoder)(images()).map, encoder(images()).map)


def test_a_backbone_of_another_kind_raises():
    with pytest.raises(TypeError, match="must be a transformers ResNetModel, ViTModel or SamVisionModel, got Linear"):
        ResNet().build(torch.nn.Linear(2, 2))
