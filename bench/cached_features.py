"""A multimodal model over cached features of its frozen tower: each image is encoded once, not at every step.

An image travels through the model as its number among the features, in the three bytes of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medalign.data.decode import open_image
from medalign.multimodal_models import Opened
from medalign.multimodal_tokens import IMAGE, add_tokens, slot_of
from medalign.vision_towers import open_tower
from medalign_core.models.multimodal.architecture import EfficientNetLite0Config, EfficientNetLite0Tower
from medalign_core.models.multimodal.assembling import assemble
from medalign_core.models.multimodal.model import MultimodalModel
from medalign_core.models.multimodal.settings import Llava

SIZE, CELL, BATCH = 224, 32, 16


class CachedModel(MultimodalModel):
    """A multimodal model whose images are numbers of rows of `features`."""

    features: Tensor

    def project(self, images: Tensor) -> Tensor:
        """Return the projected image tokens of the images whose numbers `images` (B, 3, 1, 1) holds."""
        low, middle, high = images[:, :, 0, 0].long().unbind(dim=1)
        tokens: Tensor = self.network.model.multi_modal_projector(self.features[low + 256 * middle + 65536 * high])
        return tokens


def numbered(numbers: Sequence[int]) -> np.ndarray:
    """Return the (B, 3, 1, 1) uint8 images that stand for rows of the features."""
    found = np.asarray(numbers, dtype=np.int64)
    return np.stack([found % 256, found // 256 % 256, found // 65536], axis=1).astype(np.uint8)[:, :, None, None]


def encode(pictures: Sequence[bytes], *, side: int, cache: Path | None = None) -> Tensor:
    """Return (N + 1, side**2, 1280) features of EfficientNet-Lite0; the last row is of a black image.

    A picture is resized to 224 x 224 without cropping, so that nothing at its edges is lost; the 7 x 7 cells are
    averaged to side x side.

    Args:
        pictures: encoded images.
        side: the image's tokens in each direction.
        cache: a file that is read if it is there, and written if not.
    """
    if cache is not None and cache.exists():
        return torch.from_numpy(np.load(cache)).float()
    tower, found = open_tower("efficientnet_lite0"), []
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (tower.mean, tower.std))
    black = np.zeros((3, SIZE, SIZE), dtype=np.uint8)
    with torch.no_grad():
        for start in range(0, len(pictures) + 1, BATCH):
            pixels = [_pixels(data) for data in pictures[start : start + BATCH]]
            if start + BATCH > len(pictures):
                pixels.append(black)
            stacked = torch.from_numpy(np.stack(pixels)).float() / 255
            maps = tower.network.network((stacked - mean) / std)
            found.append(functional.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2).half())
    features = torch.cat(found)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, features.numpy())
    return features.float()


def open_over(features: Tensor, causal: Any, tokenizer: Any, settings: Llava) -> Opened:
    """Return a model of a new projector over features (N, side**2, 1280) and a causal language model.

    The projector is drawn from torch's global generator. The tokenizer is given the image's tokens.
    """
    known = len(tokenizer)
    add_tokens(tokenizer)
    if len(tokenizer) > causal.get_input_embeddings().weight.shape[0]:
        causal.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for matrix in (causal.get_input_embeddings().weight, causal.get_output_embeddings().weight):
            matrix[known : len(tokenizer)] = matrix[:known].mean(dim=0)
    side = round(features.shape[1] ** 0.5)
    tower = EfficientNetLite0Tower(EfficientNetLite0Config(image_size=CELL * side))  # never run: see CachedModel
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    network = assemble(tower, causal, settings, image_token=image)
    model = CachedModel(network, settings, markers=(), mean=(0.0,) * 3, std=(1.0,) * 3)
    model.register_buffer("features", features, persistent=False)
    return Opened(model, tokenizer, slot_of(tokenizer, IMAGE, model.image_tokens))


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data).convert("RGB").resize((SIZE, SIZE))).transpose(2, 0, 1)
