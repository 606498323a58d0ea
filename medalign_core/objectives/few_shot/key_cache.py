"""Tip-Adapter-F's module: zero-shot logits and those of a cache with learnt keys."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.contract import FeatureBatch, FewShotMethod, Support
from medalign_core.objectives.few_shot.loss import classify, read_views
from medalign_core.ops.cosine import at_least_float32, normalize


class KeyCache(FewShotMethod):
    """See `TipAdapterF`; only the keys learn."""

    def __init__(
        self, weights: Float[Tensor, "C D"], support: Support, *, scale: float, alpha: float, beta: float
    ) -> None:
        super().__init__()
        self.scale, self.alpha, self.beta = scale, alpha, beta
        self.weights: Tensor
        self.values: Tensor
        self.register_buffer("weights", weights)
        units = normalize(at_least_float32(support.features.pooled.detach())).to(weights.device)
        self.keys = nn.Parameter(units.clone())  # (S, D)
        one_hot = functional.one_hot(support.labels.to(weights.device), len(weights)).to(units.dtype)
        self.register_buffer("values", one_hot)  # (S, C)

    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of images."""
        units = normalize(at_least_float32(features.pooled))
        affinity = (self.beta * (units @ self.keys.T - 1)).exp()
        return self.scale * units @ self.weights.T + self.alpha * affinity @ self.values

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the cross-entropy and stats."""
        features, labels, valid = read_views(batch, "samples")
        return classify(self.logits(features), labels, valid)
