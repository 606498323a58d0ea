"""Settings of classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.classification.module import ClassificationModule


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Cross-entropy on labels.

    Attributes:
        frozen: keep the encoder as it is and train the head alone: with `hidden` empty, a linear probe by gradient.
        hidden: widths of fully connected layers with ReLU before the last one; LVM-Med's "2FC" heads are 512, 256 and
            512, 128.
        dropout: probability before each fully connected layer, in [0, 1).
        label_smoothing: share of each target that is spread over all classes, in [0, 1).
        class_weights: of the loss, one per class in the order of `classes`; all 1 where empty.
        classes: names, sorted; those of the corpus where empty.
    """

    annotation: ClassVar[str] = "labels"
    best: ClassVar[str] = "accuracy"

    frozen: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must hold widths >= 1, got {list(self.hidden)}.")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.class_weights and (min(self.class_weights) < 0 or max(self.class_weights) <= 0):
            raise ValueError(f"class_weights must be >= 0, one of them above, got {list(self.class_weights)}.")

    def build(self, model: ImageEncoder) -> ClassificationModule:
        """Return the module that owns encoder and head; new weights by torch's global generator.

        Raises:
            ValueError: fewer than two classes, or weights for another number of them.
        """
        from medalign_core.objectives.classification.module import ClassificationModule

        if len(self.classes) < 2:
            raise ValueError(f"classes must be two or more names, got {list(self.classes)}.")
        if self.class_weights and len(self.class_weights) != len(self.classes):
            raise ValueError(
                f"class_weights must be {len(self.classes)}, one per class, got {len(self.class_weights)}."
            )
        return ClassificationModule(self, model)
