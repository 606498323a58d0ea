"""The adapter's module: attention over frozen sentence features, then transport or the pooled feature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.models.dual.freezing import freeze
from medalign_core.models.dual.sentences import SentenceAttention, Sentences, encode_sentences
from medalign_core.objectives.few_shot.contract import ClassTexts, FeatureBatch
from medalign_core.objectives.few_shot.dude_adapter.settings import DudeAdapter
from medalign_core.objectives.few_shot.loss import classify, read_views
from medalign_core.objectives.few_shot.transport_method import Prompts, TransportMethod
from medalign_core.ops.cosine import normalize
from medalign_core.ops.draws import generator


class DudeAdapterModule(TransportMethod):
    """An adapter of sentence features; see `DudeAdapter` for its settings."""

    def __init__(self, settings: DudeAdapter, model: DualEncoder, texts: ClassTexts, *, seed: int) -> None:
        pooled = settings.match == "pooled"
        super().__init__(settings.coupling, scale=model.scale, tokens="global" if pooled else "local")
        freeze(model.text)
        if not texts.descriptions:
            raise ValueError("the adapter adapts descriptions: every class needs some, got none.")
        self.settings = settings
        read = encode_sentences(model, texts.descriptions, most=settings.class_k)
        self.sentences: Tensor
        self.valid: Tensor
        self.register_buffer("sentences", read.units, persistent=False)  # (C, K, D)
        self.register_buffer("valid", read.valid, persistent=False)
        draws = generator(seed, "few-shot", "new parameters")
        self.attention = SentenceAttention(read.units.shape[2], share=settings.attn_share, draws=draws)
        self.to(read.units.device)

    def encode_prompts(self, draws: torch.Generator | None = None) -> list[Prompts]:
        """Return the adapted sentences, or the direction of their mean as the only prompt."""
        adapted = self.attention(Sentences(self.sentences, self.valid), draws=draws)
        if self.settings.match == "pooled":
            return [Prompts("class", normalize(adapted.sum(dim=1))[:, None])]
        return [Prompts("class", normalize(adapted), self.valid)]

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the cross-entropy and stats."""
        features, labels, valid = read_views(batch, self.settings.views)
        draws = generator(*batch.key, "dropout", device=features.pooled.device) if self.training else None
        return classify(self.logits_of(features, self.encode_prompts(draws)), labels, valid)
