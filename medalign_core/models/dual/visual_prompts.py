"""Learnable visual prompts: M class tokens per image instead of its patches, one per prompt."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from medalign_core.models.dual.clip import ClipImageTower
from medalign_core.models.dual.encoder import ImageTower, VisualTokens

INITIAL_STD = 0.02


class VisualPrompts(nn.Module):
    """M prompts of n tokens each: all that is learnt on the image side.

    Attributes:
        vectors: (M, n, W), drawn from N(0, 0.02^2) by torch's global generator.
    """

    def __init__(self, prompts: int, length: int, width: int) -> None:
        super().__init__()
        if min(prompts, length, width) < 1:
            raise ValueError(f"prompts, length and width must be >= 1, got {prompts}, {length} and {width}.")
        self.vectors = nn.Parameter(torch.randn(prompts, length, width) * INITIAL_STD)


class PromptedClipTower(ImageTower):
    """A CLIP image tower run M times per image, each time with the tokens of another prompt behind the patches.

    The prompts get no positions and are appended before the first layer norm, once. The visual tokens are the M class
    tokens; the pooled feature is their mean. Nothing of this can be cached while the prompts learn: a step costs M
    passes forward and backward.
    """

    def __init__(self, tower: ClipImageTower, prompts: VisualPrompts) -> None:
        super().__init__()
        if prompts.vectors.shape[-1] != tower.width:
            raise ValueError(f"prompts must be {tower.width} wide, got {prompts.vectors.shape[-1]}.")
        self.tower, self.prompts = tower, prompts
        self.image_size, self.token_count = tower.image_size, len(prompts.vectors)

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return M class tokens and their mean."""
        embedded = self.tower.embed(images)
        tokens = torch.stack([self._class_token(embedded, prompt) for prompt in self.prompts.vectors], dim=1)
        return VisualTokens(tokens, tokens.mean(dim=1))

    def _class_token(self, embedded: Tensor, prompt: Tensor) -> Tensor:
        appended = prompt.to(embedded.dtype).expand(len(embedded), -1, -1)
        return self.tower.encode(torch.cat((embedded, appended), dim=1))[:, 0]
