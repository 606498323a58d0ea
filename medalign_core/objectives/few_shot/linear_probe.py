"""The linear probe: logistic regression on pooled features. Settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support
    from medalign_core.objectives.few_shot.fixed import FixedClassifier


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Multinomial logistic regression, solved to its optimum while it is built; no text is looked at.

    min_W |W|^2 / 2 + C sum_i CE(W x_i, y_i), x the unit feature times the root of the model's scale (so that
    <x, x'> = scale * cos, and CLIP's features keep about the length that it gives them), with a 1 appended. The
    intercept is penalised as the rest: a class without support then has a finite one.

    Attributes:
        inverse_penalty: C > 0; 0.316 is that of CLIP's published probe.
        max_iterations: of L-BFGS.
    """

    schedule: ClassVar[Schedule] = Schedule()
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = False

    inverse_penalty: float = 0.316
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.inverse_penalty < float("inf") or self.max_iterations < 1:
            raise ValueError(
                "inverse_penalty must be > 0 and finite and max_iterations >= 1, "
                f"got {self.inverse_penalty} and {self.max_iterations}."
            )

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None, *, seed: int = 0
    ) -> FixedClassifier:
        """Return the fitted classifier; the seed is not looked at. ValueError without a support."""
        from medalign_core.objectives.few_shot.fixed import FixedClassifier
        from medalign_core.objectives.few_shot.logistic_regression import fit
        from medalign_core.ops.cosine import at_least_float32, normalize

        if support is None or len(support.labels) == 0:
            raise ValueError("the linear probe is fitted to a support, got none.")
        root = model.scale**0.5
        weights, intercept = fit(
            root * normalize(at_least_float32(support.features.pooled)),
            support.labels,
            len(texts.names),
            inverse_penalty=self.inverse_penalty,
            max_iterations=self.max_iterations,
        )
        return FixedClassifier(weights, scale=root, intercept=intercept)
