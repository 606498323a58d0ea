"""Tip-Adapter-F: a cache of the support's features, learnt from there. Settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support
    from medalign_core.objectives.few_shot.key_cache import KeyCache


@dataclass(frozen=True, kw_only=True)
class TipAdapterF:
    """Tip-Adapter-F (Zhang et al., ECCV 2022): logits = zero-shot + alpha exp(-beta (1 - x K')) L.

    K are the support's unit features, from which the keys are learnt, L its one-hot labels. The published code searches
    alpha and beta on the test set, from other starts for other data sets; here they stay at its start for ImageNet.

    Attributes:
        alpha: weight of the cache, >= 0.
        beta: sharpness, > 0.
    """

    schedule: ClassVar[Schedule] = Schedule(
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=1e-2,
        adam_epsilon=1e-4,
        warmup_epochs=0,
        epochs=((16, 20),),
        batch=256,
    )
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = False

    alpha: float = 1.17
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha < 0 or not self.beta > 0:
            raise ValueError(f"alpha must be >= 0 and beta > 0, got {self.alpha} and {self.beta}.")

    def build(self, model: DualEncoder, texts: ClassTexts, support: Support | None, *, seed: int = 0) -> KeyCache:
        """Return the module; the seed is not looked at. ValueError without a support."""
        from medalign_core.objectives.few_shot.fixed import text_weights
        from medalign_core.objectives.few_shot.key_cache import KeyCache

        if support is None or len(support.labels) == 0:
            raise ValueError("Tip-Adapter-F caches a support, got none.")
        return KeyCache(text_weights(model, texts), support, scale=model.scale, alpha=self.alpha, beta=self.beta)
