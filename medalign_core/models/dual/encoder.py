"""The dual encoder: an image tower and a text tower that meet in a joint space, behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

CONTEXT_START = 1  # position 0 holds the tower's start token; contexts follow it


class VisualTokens(NamedTuple):
    """What an image tower returns, projected into the joint space, not normalised.

    Attributes:
        tokens: (B, M, D) local tokens; all of them count.
        pooled: (B, D) the tower's global feature.
    """

    tokens: Float[Tensor, "B M D"]
    pooled: Float[Tensor, "B D"]


class PromptTokens(NamedTuple):
    """P tokenised prompts, padded on the right to L tokens.

    Where room for n context vectors was asked for, positions CONTEXT_START .. CONTEXT_START + n - 1 hold placeholder
    ids, whose embeddings are replaced before they are encoded.

    Attributes:
        ids: (P, L) token ids.
        attended: (P, L) bool, False for padding.
    """

    ids: Int[Tensor, "P L"]
    attended: Bool[Tensor, "P L"]


class Injection(NamedTuple):
    """Vectors mixed into the context positions at the input of one block: (1 - weight) * seen + weight * vectors.

    Attributes:
        layer: the block, counted from 0.
        vectors: (P, n, W) for the positions from CONTEXT_START on.
        weight: in [0, 1]; 0 changes nothing.
    """

    layer: int
    vectors: Float[Tensor, "P n W"]
    weight: float


Tokenize = Callable[[Sequence[str], int], PromptTokens]
"""(texts, context) -> tokens with room for `context` vectors after the start token; ValueError for a text too long."""


class ImageTower(nn.Module, ABC):
    """uint8 images to visual tokens in the joint space."""

    image_size: int
    token_count: int  # M

    @abstractmethod
    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return the tokens; normalisation of pixels is the tower's first step."""


class TextTower(nn.Module, ABC):
    """Token embeddings to one feature per prompt in the joint space."""

    width: int  # W, of a token embedding
    layers: int
    context_length: int  # the most tokens of a prompt, start and end included

    @abstractmethod
    def embed(self, ids: Int[Tensor, "P L"]) -> Float[Tensor, "P L W"]:
        """Return the tokens' word embeddings, without positions: what learnt contexts stand beside."""

    @abstractmethod
    def encode(
        self,
        embeddings: Float[Tensor, "P L W"],
        attended: Bool[Tensor, "P L"],
        *,
        injection: Injection | None = None,
    ) -> Float[Tensor, "P D"]:
        """Add positions, run the blocks, pool as the tower does (end token, first token or masked mean), project."""


class DualEncoder(nn.Module):
    """Two towers, the tokeniser of the text tower, and the scale of their cosines.

    Attributes:
        image: the image tower.
        text: the text tower.
        tokenize: makes prompts of texts.
        scale: what cosines are multiplied by to be logits, > 0: the exponential of CLIP's logit_scale.
    """

    def __init__(self, image: ImageTower, text: TextTower, *, tokenize: Tokenize, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}.")
        self.image, self.text, self.tokenize, self.scale = image, text, tokenize, scale

    def encode_texts(self, texts: Sequence[str], *, chunk: int = 256) -> Float[Tensor, "P D"]:
        """Return the features of plain texts, `chunk` at a time, without gradients."""
        with torch.no_grad():
            parts = [self._encode(texts[start : start + chunk]) for start in range(0, len(texts), chunk)]
        return torch.cat(parts)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        prompts = self.tokenize(texts, 0)
        device = next(self.text.parameters()).device
        return self.text.encode(self.text.embed(prompts.ids.to(device)), prompts.attended.to(device))
