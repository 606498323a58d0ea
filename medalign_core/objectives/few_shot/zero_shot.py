"""Zero-shot classification by text features: the floor that a few shots must beat. Settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support
    from medalign_core.objectives.few_shot.fixed import FixedClassifier


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """logit_c = scale * cos(image, text of class c). Nothing is learnt.

    Attributes:
        text: "template", the filled template, or "descriptions", the mean of the unit features of all descriptions.
    """

    schedule: ClassVar[Schedule] = Schedule()
    carries_over: ClassVar[bool] = True

    text: Literal["template", "descriptions"] = "template"

    def __post_init__(self) -> None:
        if self.text not in ("template", "descriptions"):
            raise ValueError(f"text must be 'template' or 'descriptions', got {self.text!r}.")

    @property
    def needs_descriptions(self) -> bool:
        """Whether the class texts must hold descriptions."""
        return self.text == "descriptions"

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> FixedClassifier:
        """Return the classifier; neither support nor seed are looked at. ValueError where descriptions are missing."""
        from medalign_core.objectives.few_shot.fixed import FixedClassifier, text_weights

        descriptions = texts.descriptions if self.text == "descriptions" else None
        return FixedClassifier(text_weights(model, texts, descriptions), scale=model.scale)
