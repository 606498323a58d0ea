from dataclasses import replace

import numpy as np
import pytest
import torch
from core_problems import image_batch
from torch import nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.lvm_med.module import LVMMedModule
from medalign_core.objectives.lvm_med.settings import PRESETS, LVMMed
from medalign_core.types import DrawKey, ImageBatch, ImageFeatures

SMALL = LVMMed(graph_size=8, neighbours=3, projection_size=16, graph_width=16)


class LinearEncoder(ImageEncoder):
    """One linear map of the raw pixels: the smallest encoder that can learn to look away from nuisance."""

    def __init__(self, pixels: int, size: int) -> None:
        nn.Module.__init__(self)
        self.feature_size = size
        self.linear = nn.Linear(pixels, size, bias=False)

    def forward(self, images: torch.Tensor) -> ImageFeatures:
        features = self.linear(images.flatten(1).float() / 64 - 2)
        return ImageFeatures(map=features[:, :, None, None], pooled=features)


def signal_batch(step: int, *, rows: int = 32, signal: int = 6, nuisance: int = 36) -> ImageBatch:
    """Images of 42 numbers: 6 are the same in both views, 36 are drawn anew for each view."""
    draws = torch.Generator().manual_seed(step)
    same = torch.randn(rows, 1, signal, generator=draws).expand(-1, 2, -1)
    own = torch.randn(rows, 2, nuisance, generator=draws)
    pixels = (torch.cat([same, own], dim=2) * 32 + 128).clamp(0, 255).to(torch.uint8)
    blank = image_batch(rows, key=DrawKey(0, step, 0))
    return replace(blank, images=pixels.reshape(rows, 2, 3, 1, (signal + nuisance) // 3))


def clean_figures(module: LVMMedModule) -> dict[str, float]:
    """The figures on batches that were never trained on, without noise."""
    module.eval()
    with torch.no_grad():
        found = [module(signal_batch(10_000 + i))[1] for i in range(8)]
    module.train()
    return {name: float(np.mean([stats[name].item() for stats in found])) for name in found[0]}


@pytest.mark.parametrize("noise_scale", [0.05, 1.0])
def test_a_linear_encoder_learns_to_match_views_by_their_common_signal(noise_scale):
    torch.manual_seed(0)
    # without message passing: at the start the k-NN graphs are chance, and averaging over them hides the signal
    module = replace(SMALL, noise_scale=noise_scale, message_passing=False).build(LinearEncoder(42, 16))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    before = clean_figures(module)["matching_accuracy"]
    for step in range(120):
        loss, stats = module(signal_batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before < 0.4
    assert clean_figures(module)["matching_accuracy"] >= 0.9
    assert stats["embedding_std"] > 0.3


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_whole_learns_from_an_encoder_whose_graphs_agree_in_part(preset):
    """As in the paper, which starts from pretrained encoders: the published message passing needs graphs that agree."""
    torch.manual_seed(0)
    encoder = LinearEncoder(42, 16)
    with torch.no_grad():
        encoder.linear.weight[:, 6:] *= 0.35
    module = replace(SMALL, preset=preset).build(encoder)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    before = clean_figures(module)
    for step in range(120):
        loss, _ = module(signal_batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = clean_figures(module)
    assert 0.5 < before["edge_overlap"] < after["edge_overlap"]
    assert after["matching_accuracy"] > before["matching_accuracy"] + 0.15
    assert after["embedding_std"] > 0.5
