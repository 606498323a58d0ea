"""Extraction from a real ResNet: deterministic, frozen to the last buffer, and caught where it is not."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel

from medalign.errors import FrozenError
from medalign.evaluation.extract import extract, fingerprint, frozen, pixels
from medalign_core.types import ImageFeatures

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)


class TinyEncoder(nn.Module):
    """A ResNet of transformers behind the encoder's call; BatchNorm after the stem and in every block."""

    def __init__(self) -> None:
        super().__init__()
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        torch.manual_seed(0)
        self.backbone = ResNetModel(config)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> ImageFeatures:
        found = self.backbone(images.float() / 255).last_hidden_state
        return ImageFeatures(map=found, pooled=self.dropout(found.mean((2, 3))))


class Restless(TinyEncoder):
    """An encoder whose BatchNorm adapts to what it is shown: the published linear probe's mistake."""

    def forward(self, images: torch.Tensor) -> ImageFeatures:
        self.backbone.train()
        return super().forward(images)


def test_no_parameter_and_no_batch_norm_buffer_changes() -> None:
    encoder = TinyEncoder().train()
    before = fingerprint(encoder)
    features = extract(encoder, [IMAGES[:4], IMAGES[4:]])
    assert features.shape == (7, 16)
    assert features.dtype == np.float32
    assert fingerprint(encoder) == before
    assert any(name.endswith("running_mean") for name in before)
    assert any(name.endswith("num_batches_tracked") for name in before)


def test_features_do_not_depend_on_the_batches_nor_on_the_mode_it_was_found_in() -> None:
    whole = extract(TinyEncoder().eval(), [IMAGES])
    np.testing.assert_allclose(extract(TinyEncoder().train(), [IMAGES[:3], IMAGES[3:]]), whole, rtol=1e-5, atol=1e-6)


def test_every_module_gets_its_own_mode_back() -> None:
    encoder = TinyEncoder().train()
    encoder.dropout.eval()
    extract(encoder, [IMAGES])
    assert encoder.training
    assert encoder.backbone.training
    assert not encoder.dropout.training
    with pytest.raises(RuntimeError, match="stop"), frozen(encoder):
        raise RuntimeError("stop")
    assert encoder.training


def test_an_encoder_whose_statistics_move_is_refused_by_name() -> None:
    with pytest.raises(FrozenError, match=r"changed while it was evaluated: backbone\..*running_mean"):
        extract(Restless(), [IMAGES])


def test_a_parameter_that_moves_is_refused() -> None:
    encoder = TinyEncoder()
    with pytest.raises(FrozenError, match="embedder"), frozen(encoder), torch.no_grad():
        next(encoder.parameters()).add_(1e-6)


def test_half_precision_weights_are_fingerprinted_too() -> None:
    encoder = nn.Linear(3, 2).bfloat16()
    before = fingerprint(encoder)
    with torch.no_grad():
        encoder.weight[0, 0] += 1
    assert fingerprint(encoder)["weight"] != before["weight"]
    assert fingerprint(encoder)["bias"] == before["bias"]


def test_no_batches_is_an_error_and_not_an_empty_table() -> None:
    with pytest.raises(ValueError, match="no batches"):
        extract(TinyEncoder(), [])


def test_pixels_are_the_mean_colours_of_cells() -> None:
    found = pixels(IMAGES, size=4).reshape(7, 3, 4, 4)
    np.testing.assert_allclose(found[2, 1, 3, 0], IMAGES[2, 1, 24:32, 0:8].mean() / 255, rtol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1
