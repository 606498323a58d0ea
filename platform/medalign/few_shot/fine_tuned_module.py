"""EfficientNet-Lite0 cut in two: the trunk that stays frozen, and the layers above it that a few images train."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.bridge import CHUNK_IMAGES, IMAGE_SIZE, PIXELS
from medalign_core.models.dual.efficientnet import STRIDE, WIDTH, EfficientNetLite0
from medalign_core.models.dual.encoder import ImageTower, VisualTokens
from medalign_core.objectives.few_shot.contract import FeatureBatch, FewShotMethod
from medalign_core.objectives.few_shot.loss import classify, read_views


class Trunk(ImageTower):
    """The network up to the input of its last block; its tokens are the 7 x 7 cells of 192 channels there."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.stem, self.blocks = network.stem, network.blocks[:-1]
        self.image_size, self.token_count = IMAGE_SIZE, (IMAGE_SIZE // STRIDE) ** 2
        self.requires_grad_(False)

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return the cells, row by row, and their mean."""
        parts = []
        for part in images.split(CHUNK_IMAGES):
            x = functional.relu6(self.stem(PIXELS(part, IMAGE_SIZE, self.stem.weight.dtype)))
            for block in self.blocks:
                x = block(x)
            parts.append(x.flatten(2).transpose(1, 2))
        cells = torch.cat(parts)
        return VisualTokens(cells, cells.mean(dim=1))


class LastLayers(FewShotMethod):
    """The last block, the last convolution, the mean over cells, and a linear head that starts at zero."""

    def __init__(self, block: nn.Module, head: nn.Module, *, classes: int) -> None:
        super().__init__()
        self.block, self.head, self.classifier = block, head, nn.Linear(WIDTH, classes)
        self.requires_grad_(True)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of the trunk's cells."""
        side = math.isqrt(features.tokens.shape[1])
        cells = features.tokens.transpose(1, 2).unflatten(2, (side, side))
        pooled = functional.relu6(self.head(self.block(cells))).mean(dim=(2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the cross-entropy over the views as images of their own, and stats."""
        features, labels, valid = read_views(batch, "samples")
        return classify(self.logits(features), labels, valid)
