"""Dude's module: prompts with a shared context, with a class-specific one, or with both, and the loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.models.dual.freezing import freeze
from medalign_core.models.dual.prompts import PromptLearner, injection_layer, new_contexts
from medalign_core.models.dual.sentences import ContextGenerator, SentenceAttention, Sentences, encode_sentences
from medalign_core.objectives.few_shot.contract import ClassTexts, FeatureBatch
from medalign_core.objectives.few_shot.dude.settings import Dude
from medalign_core.objectives.few_shot.loss import anchor, classify, read_views
from medalign_core.objectives.few_shot.transport_method import Prompts, TransportMethod, units
from medalign_core.ops.cosine import normalize
from medalign_core.ops.draws import generator


class DudeModule(TransportMethod):
    """Dude around a frozen dual encoder; see `Dude` for its settings."""

    def __init__(self, settings: Dude, model: DualEncoder, texts: ClassTexts, *, seed: int) -> None:
        super().__init__(
            settings.coupling,
            scale=model.scale,
            tokens=settings.tokens,
            adds_global=settings.add_global == "logit_sum",
        )
        freeze(model.text)
        self.settings = settings
        self.prompts: PromptLearner | None = None
        self.attention: SentenceAttention | None = None
        self.generator: ContextGenerator | None = None
        self.layer = 0
        draws = generator(seed, "few-shot", "new parameters")
        if settings.shared_n:
            contexts = new_contexts(
                model, count=settings.shared_n, length=settings.shared_len, words=settings.shared_words, draws=draws
            )
            self.prompts = PromptLearner.of_classes(model, texts.names, contexts, chunk=settings.chunk)
        if settings.class_k:
            self._read_descriptions(model, texts, draws)
        if settings.anchor_lambda:
            self.template: Tensor
            self.register_buffer("template", units(model.encode_texts(texts.sentences)), persistent=False)  # (C, D)
        self.to(next(model.text.parameters()).device)

    def _read_descriptions(self, model: DualEncoder, texts: ClassTexts, draws: torch.Generator) -> None:
        settings = self.settings
        if not texts.descriptions:
            raise ValueError(f"class_k = {settings.class_k} needs descriptions of every class; without, set class_k=0.")
        self.sentences: Tensor
        self.valid: Tensor
        read = encode_sentences(model, texts.descriptions, most=settings.class_k)
        self.register_buffer("sentences", read.units, persistent=False)  # (C, K, D)
        self.register_buffer("valid", read.valid, persistent=False)
        width = read.units.shape[2]
        if settings.class_route == "tcp_inject":
            self.layer = injection_layer(model.text, settings.tcp_layer)
            self.generator = ContextGenerator(
                width, length=settings.shared_len, context_width=model.text.width, draws=draws
            )
        elif settings.class_route == "attn_pool":
            self.attention = SentenceAttention(width, share=settings.attn_share, draws=draws)

    def encode_prompts(self, draws: torch.Generator | None = None) -> list[Prompts]:
        """Return the measures whose scores are added; those that ran through the text tower stand first."""
        encoded, apart = self._through_tower(), self._beside_tower(draws)
        if apart is None or not encoded or self.settings.fusion == "sum":
            return encoded if apart is None else [*encoded, apart]
        (shared,) = encoded
        valid = [_existing(shared), _existing(apart)]
        return [Prompts("union", torch.cat([shared.units, apart.units], dim=1), torch.cat(valid, dim=1))]

    def _through_tower(self) -> list[Prompts]:
        """Return prompts with the shared context, with both contexts where descriptions are injected, or both kinds."""
        if self.prompts is None:
            return []
        if self.generator is None:
            return [Prompts("shared", units(self.prompts()))]
        vectors = self.generator(Sentences(self.sentences, self.valid).mean())
        both = units(self.prompts(vectors, layer=self.layer, weight=self.settings.tcp_weight))
        if self.settings.fusion == "union":
            return [Prompts("union", both)]
        return [Prompts("shared", units(self.prompts())), Prompts("class", both, weight=self._class_weight())]

    def _beside_tower(self, draws: torch.Generator | None) -> Prompts | None:
        """Return prompts made of the descriptions' features, None where those are injected or not there."""
        if self.settings.class_k == 0 or self.generator is not None:
            return None
        if self.attention is None:
            return Prompts("class", self.sentences, self.valid, self._class_weight())
        pooled = self.attention(Sentences(self.sentences, self.valid), draws=draws).sum(dim=1)
        return Prompts("class", normalize(pooled)[:, None], weight=self._class_weight())

    def _class_weight(self) -> float:
        alone = self.settings.shared_n == 0 or self.settings.fusion == "union"
        return 1.0 if alone else self.settings.class_weight

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss, cross-entropy plus anchor_lambda times the anchor, and stats: both, and the accuracy."""
        features, labels, valid = read_views(batch, self.settings.views)
        draws = None
        if self.training and self.attention is not None:
            draws = generator(*batch.key, "dropout", device=features.pooled.device)
        sets = self.encode_prompts(draws)
        loss, stats = classify(self.logits_of(features, sets), labels, valid)
        if self.settings.anchor_lambda:
            away = torch.stack([anchor(tuned, self.template) for tuned in self._tuned(sets)]).mean()
            loss, stats = loss + self.settings.anchor_lambda * away, stats | {"anchor": away.detach()}
        return loss, stats

    def _tuned(self, sets: list[Prompts]) -> list[Tensor]:
        """Return the features that ran through the tower: the first N of each measure that holds such."""
        held = sets if self.generator is not None else sets[:1]
        return [prompts.units[:, : self.settings.shared_n] for prompts in held]


def _existing(prompts: Prompts) -> Tensor:
    """Return which prompts exist."""
    if prompts.valid is not None:
        return prompts.valid
    return torch.ones(prompts.units.shape[:2], dtype=torch.bool, device=prompts.units.device)
