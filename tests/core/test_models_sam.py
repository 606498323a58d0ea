"""SAM's image encoder as a backbone: transformers' own map at its own size, other sizes, the map before the neck."""

import pytest
import torch

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.settings import IMAGENET_MEAN, IMAGENET_STD, SamViT

SIZES = {"image_size": 64, "patch_size": 8, "hidden_size": 16, "layers": 3, "heads": 2, "mlp_size": 32}
TINY = {**SIZES, "neck_size": 12, "window_size": 4, "global_layers": (1,)}


def build(**keys: object) -> ImageEncoder:
    torch.manual_seed(0)
    encoder = SamViT(**{**TINY, **keys}).build().eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "pos" in name:  # SAM begins them at zero
                parameter.normal_(std=0.5)
    return encoder


def images(height: int = 64, width: int = 64) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), generator=draws, dtype=torch.uint8)


def pixels(batch: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (batch.float() / 255 - mean) / std


def test_at_its_own_size_the_map_after_the_neck_is_that_of_transformers() -> None:
    encoder = build(features="neck")
    assert encoder.feature_size == 12
    found = encoder(images())
    torch.testing.assert_close(found.map, encoder.backbone(pixels(images())).last_hidden_state)
    torch.testing.assert_close(found.pooled, found.map.mean(dim=(2, 3)))


def test_the_map_of_the_blocks_is_what_the_neck_is_given() -> None:
    encoder = build()
    assert encoder.feature_size == 16
    feature_map = encoder(images()).map
    assert feature_map.shape == (2, 16, 8, 8)
    through_neck = encoder.backbone.vision_encoder.neck(feature_map.permute(0, 2, 3, 1))
    torch.testing.assert_close(through_neck, encoder.backbone(pixels(images())).last_hidden_state)


@pytest.mark.parametrize(("height", "width", "grid"), [(32, 32, (4, 4)), (48, 80, (6, 10)), (96, 96, (12, 12))])
def test_other_sizes_are_taken_by_interpolating_positions(height: int, width: int, grid: tuple[int, int]) -> None:
    assert build()(images(height, width)).map.shape == (2, 16, *grid)


def test_interpolated_positions_of_a_plane_stay_a_plane() -> None:
    encoder = build()
    table = encoder.backbone.vision_encoder.pos_embed
    with torch.no_grad():
        ramp = (torch.arange(8.0) + 0.5) / 8
        table.copy_(ramp[None, :, None, None].expand_as(table))
        encoder.backbone.vision_encoder.patch_embed.projection.weight.zero_()
        encoder.backbone.vision_encoder.patch_embed.projection.bias.zero_()
    encoder.backbone.vision_encoder.layers = torch.nn.ModuleList()
    found = encoder(images(128, 128)).map[0, 0]
    inner = slice(4, 12)  # the border is flat, there is nothing beyond it
    expected = ((torch.arange(16.0) + 0.5) / 16)[inner]
    torch.testing.assert_close(found[inner, 5], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(found[:, 0], found[:, 9])


def test_positions_may_be_dropped_as_the_authors_do() -> None:
    encoder = build(positions="drop")
    before = encoder(images()).map
    with torch.no_grad():
        encoder.backbone.vision_encoder.pos_embed += 100.0
    torch.testing.assert_close(encoder(images()).map, before)


def test_every_weight_that_is_used_gets_a_gradient() -> None:
    encoder = build().train()
    encoder(images(48, 48)).pooled.square().sum().backward()
    without = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert without == {name for name, _ in encoder.named_parameters() if ".neck." in name}
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_half_precision_and_images_that_are_not_whole_patches() -> None:
    encoder = build().to(torch.bfloat16)
    assert encoder(images(48, 48)).map.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"whole patches of 8 pixels, got \(60, 64\)"):
        encoder(images(60, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads must divide hidden_size, got 3 and 16"),
        ({"global_layers": (3,)}, r"global_layers must lie in \[0, 2\], got \[3\]"),
        ({"features": "mask"}, "features must be 'blocks' or 'neck'"),
        ({"window_size": 0}, "window_size must be >= 1, got 0"),
    ],
)
def test_settings_that_cannot_work_raise_with_their_value(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamViT(**{**TINY, **change})
