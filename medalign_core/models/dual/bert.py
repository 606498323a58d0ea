"""A text tower around a transformers BertModel: PubMedBERT in BiomedCLIP, MiniLM in the bridge."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medalign_core.models.dual.encoder import Injection, TextTower
from medalign_core.models.dual.injection import check_injection, inject


class BertTextTower(TextTower):
    """Bidirectional blocks, pooled by the first token or by the mean over the tokens attended to, then a head.

    Args:
        model: a transformers BertModel; its own pooler, where it has one, is not used.
        head: (P, W) pooled to (P, D).
        pooling: "first" or "mean".
        context_length: the most tokens of a prompt, at most the model's positions.

    Raises:
        ValueError: a context_length that the model has no positions for.
    """

    def __init__(
        self, model: nn.Module, *, head: nn.Module, pooling: Literal["first", "mean"], context_length: int
    ) -> None:
        super().__init__()
        whole: Any = model
        config = whole.config
        if not 3 <= context_length <= config.max_position_embeddings:
            raise ValueError(f"context_length must be in [3, {config.max_position_embeddings}], got {context_length}.")
        self.embeddings, self.blocks, self.head, self.pooling = whole.embeddings, whole.encoder.layer, head, pooling
        self.width, self.layers, self.context_length = config.hidden_size, config.num_hidden_layers, context_length

    def embed(self, ids: Int[Tensor, "P L"]) -> Float[Tensor, "P L W"]:
        """Return the tokens' word embeddings."""
        embedded: Tensor = self.embeddings.word_embeddings(ids)
        return embedded

    def encode(
        self,
        embeddings: Float[Tensor, "P L W"],
        attended: Bool[Tensor, "P L"],
        *,
        injection: Injection | None = None,
    ) -> Float[Tensor, "P D"]:
        """Return the prompts' features; no token looks at padding.

        Raises:
            ValueError: prompts longer than context_length, or an injection that does not fit.
        """
        check_injection(injection, embeddings, self.layers)
        if embeddings.shape[1] > self.context_length:
            raise ValueError(f"prompts must have at most {self.context_length} tokens, got {embeddings.shape[1]}.")
        hidden = self.embeddings(inputs_embeds=embeddings)
        mask = torch.zeros_like(attended, dtype=hidden.dtype).masked_fill(~attended, -torch.inf)[:, None, None]
        for layer, block in enumerate(self.blocks):
            hidden = block(inject(hidden, layer, injection), mask)
        features: Tensor = self.head(self._pool(hidden, attended))
        return features

    def _pool(self, hidden: Tensor, attended: Tensor) -> Tensor:
        if self.pooling == "first":
            return hidden[:, 0]
        counted = attended[..., None].to(hidden.dtype)
        return (hidden * counted).sum(dim=1) / counted.sum(dim=1)
