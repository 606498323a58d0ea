"""A classifier whose weights no gradient step changes: that of zero-shot and of the linear probe."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from medalign_core.models.dual.encoder import DualEncoder, VisualTokens
from medalign_core.models.dual.freezing import freeze
from medalign_core.models.dual.sentences import encode_sentences
from medalign_core.objectives.few_shot.contract import ClassTexts, FeatureBatch, FewShotMethod
from medalign_core.objectives.few_shot.loss import classify, read_views
from medalign_core.ops.cosine import at_least_float32, normalize


class FixedClassifier(FewShotMethod):
    """logits = scale * unit(pooled) W' + intercept."""

    def __init__(self, weights: Float[Tensor, "C D"], *, scale: float, intercept: Tensor | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.weights: Tensor
        self.intercept: Tensor
        self.register_buffer("weights", weights)
        self.register_buffer("intercept", weights.new_zeros(len(weights)) if intercept is None else intercept)

    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of images."""
        return self.scale * normalize(at_least_float32(features.pooled)) @ self.weights.T + self.intercept

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the cross-entropy, of which no parameter has a gradient, and stats."""
        features, labels, valid = read_views(batch, "samples")
        return classify(self.logits(features), labels, valid)


def text_weights(
    model: DualEncoder, texts: ClassTexts, descriptions: Sequence[Sequence[str]] | None = None
) -> Float[Tensor, "C D"]:
    """Return the unit features of the filled templates, or the directions of the mean features of the descriptions.

    Raises:
        ValueError: the descriptions are empty.
    """
    freeze(model.text)
    if descriptions is None:
        return normalize(at_least_float32(model.encode_texts(texts.sentences)))
    if not descriptions:
        raise ValueError("every class needs a description, got none; take text='template'.")
    return encode_sentences(model, descriptions).mean()
