"""The module of CoOp, KgCoOp and TCP: the pooled feature against one prompt per class, its context learnt."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.models.dual.encoder import DualEncoder, VisualTokens
from medalign_core.models.dual.freezing import freeze
from medalign_core.models.dual.prompts import PromptLearner, new_contexts
from medalign_core.models.dual.sentences import ContextGenerator
from medalign_core.objectives.few_shot.contract import ClassTexts, FeatureBatch
from medalign_core.objectives.few_shot.loss import anchor, classify, read_views
from medalign_core.objectives.few_shot.text_method import TextMethod
from medalign_core.ops.cosine import at_least_float32, normalize
from medalign_core.ops.draws import generator


class ContextMethod(TextMethod[Tensor]):
    """logit_c = scale * cos(pooled, prompt c), trained by cross-entropy and, where weighted, the anchor."""

    def __init__(
        self,
        model: DualEncoder,
        texts: ClassTexts,
        *,
        length: int | None,
        words: str | None,
        chunk: int,
        anchor_lambda: float = 0.0,
        injection: tuple[int, float] | None = None,
        seed: int,
    ) -> None:
        """Draw what learns.

        Args:
            model: frozen from here on.
            texts: of the classes.
            length: vectors of the context; None: as many as the words have tokens.
            words: what it starts from; None: N(0, 0.02^2).
            chunk: sequences through the text tower at a time.
            anchor_lambda: weight of the anchor.
            injection: (layer, weight) at which the frozen feature of each class's sentence enters its context.
            seed: of what is drawn.
        """
        super().__init__()
        freeze(model.text)
        self.scale, self.anchor_lambda, self.injection = model.scale, anchor_lambda, injection
        draws = generator(seed, "few-shot", "new parameters")
        contexts = new_contexts(model, count=1, length=length, words=words, draws=draws)
        self.prompts = PromptLearner.of_classes(model, texts.names, contexts, chunk=chunk)
        self.template: Tensor | None
        self.register_buffer("template", None, persistent=False)
        self.generator: ContextGenerator | None = None
        if anchor_lambda or injection is not None:
            self.template = normalize(at_least_float32(model.encode_texts(texts.sentences)))  # (C, D)
        if injection is not None and self.template is not None:
            width = self.template.shape[1]
            self.generator = ContextGenerator(
                width, length=contexts.shape[1], context_width=model.text.width, draws=draws
            )
        self.to(contexts.device)

    def encode_prompts(self, draws: torch.Generator | None = None) -> Float[Tensor, "C D"]:
        """Return the prompts' unit features."""
        if self.injection is None or self.generator is None:
            features = self.prompts()
        else:
            layer, weight = self.injection
            features = self.prompts(self.generator(self.template), layer=layer, weight=weight)
        return normalize(at_least_float32(features[:, 0]))

    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of images."""
        return self._logits(features, self.prompts_now())

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss and stats: cross_entropy, accuracy and, where it is weighted, the anchor."""
        features, labels, valid = read_views(batch, "samples")
        prompts = self.encode_prompts()
        loss, stats = classify(self._logits(features, prompts), labels, valid)
        if self.anchor_lambda and self.template is not None:
            away = anchor(prompts[:, None], self.template)
            loss, stats = loss + self.anchor_lambda * away, stats | {"anchor": away.detach()}
        return loss, stats

    def _logits(self, features: VisualTokens, prompts: Tensor) -> Tensor:
        return self.scale * normalize(at_least_float32(features.pooled)) @ prompts.T
