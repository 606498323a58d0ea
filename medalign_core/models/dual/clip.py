"""The towers of a transformers CLIPModel with a vision transformer."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from medalign_core.models.dual.encoder import ImageTower, Injection, TextTower, VisualTokens
from medalign_core.models.dual.injection import check_injection, inject
from medalign_core.models.dual.pixels import Normalisation


class ClipImageTower(ImageTower):
    """Patch tokens and the class token of a CLIP vision transformer, in the joint space.

    The pooled feature is CLIP's image feature. CLIP trains only that one; its patch tokens, put through the same last
    layer norm and projection, are not aligned to text before tuning. They are exposed for what is learnt on top.

    Args:
        model: a transformers CLIPModel; its vision half is used as it is.
        pixels: the normalisation it was trained with.
    """

    def __init__(self, model: nn.Module, *, pixels: Normalisation) -> None:
        super().__init__()
        whole: Any = model
        self.vision, self.projection = whole.vision_model, whole.visual_projection
        config = whole.config.vision_config
        self.image_size, self.width, self.pixels = config.image_size, config.hidden_size, pixels
        self.token_count = (config.image_size // config.patch_size) ** 2

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return the (H / patch)^2 patch tokens, row by row from the top left, and the class token."""
        features = self.encode(self.embed(images))
        return VisualTokens(features[:, 1:], features[:, 0])

    def embed(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B S V"]:
        """Return class and patch embeddings with their positions: S = 1 + token_count of width V."""
        embedded: Tensor = self.vision.embeddings(self.pixels(images, self.image_size, self.projection.weight.dtype))
        return embedded

    def encode(self, embedded: Float[Tensor, "B S V"]) -> Float[Tensor, "B S D"]:
        """Return every token after all blocks, normalised by the last layer norm and projected."""
        hidden = self.vision.pre_layrnorm(embedded)
        hidden = self.vision.encoder(inputs_embeds=hidden).last_hidden_state
        projected: Tensor = self.projection(self.vision.post_layernorm(hidden))
        return projected


class ClipTextTower(TextTower):
    """CLIP's causal text transformer; the feature is that of the end token, the last one attended to.

    Args:
        model: a transformers CLIPTextModel, the text half of a CLIPModel.
        projection: of the feature into the joint space.
    """

    def __init__(self, model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        half: Any = model
        self.text, self.projection, config = half, projection, half.config
        self.width, self.layers = config.hidden_size, config.num_hidden_layers
        self.context_length = config.max_position_embeddings

    def embed(self, ids: Int[Tensor, "P L"]) -> Float[Tensor, "P L W"]:
        """Return the tokens' word embeddings."""
        embedded: Tensor = self.text.embeddings.token_embedding(ids)
        return embedded

    def encode(
        self,
        embeddings: Float[Tensor, "P L W"],
        attended: Bool[Tensor, "P L"],
        *,
        injection: Injection | None = None,
    ) -> Float[Tensor, "P D"]:
        """Return the end tokens' features.

        Padding stands behind the end token, which a causal block cannot look at: it needs no mask of its own.

        Raises:
            ValueError: prompts longer than context_length, or an injection that does not fit.
        """
        check_injection(injection, embeddings, self.layers)
        hidden = self.text.embeddings(inputs_embeds=embeddings)
        mask = _causal_mask(hidden)
        for layer, block in enumerate(self.text.encoder.layers):
            hidden = block(inject(hidden, layer, injection), mask)
        rows = torch.arange(len(hidden), device=hidden.device)
        ends = hidden[rows, attended.sum(dim=1) - 1]
        projected: Tensor = self.projection(self.text.final_layer_norm(ends))
        return projected


def _causal_mask(hidden: Tensor) -> Tensor:
    """Return what is added to the attention scores: (1, 1, L, L), 0 up to the diagonal and -inf beyond it."""
    length = hidden.shape[1]
    return hidden.new_full((length, length), -torch.inf).triu(1)[None, None]
