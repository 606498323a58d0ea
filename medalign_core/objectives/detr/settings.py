"""Settings of detection by conditional DETR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.detr.module import DETRModule


@dataclass(frozen=True, kw_only=True)
class DETR:
    """Conditional DETR (Meng et al. 2021) as transformers has it, on the coarsest map of an image encoder.

    It needs many more steps than `detection`, and more images: queries learn where objects are from nothing.

    Attributes:
        frozen: keep the encoder as it is and train the detector alone.
        queries: boxes that an image can have at most.
        width: of the detector's tokens.
        layers: of its encoder and of its decoder, each.
        heads: attention heads; they divide width.
        mlp_size: width of its perceptrons.
        dropout: in [0, 1).
        least_score: boxes below it are not returned.
        most_boxes: of an image that are returned, the best.
        classes: names, sorted; those of the corpus's boxes where empty.
    """

    annotation: ClassVar[str] = "boxes"
    best: ClassVar[str] = "-loss"

    frozen: bool = False
    queries: int = 100
    width: int = 256
    layers: int = 6
    heads: int = 8
    mlp_size: int = 2048
    dropout: float = 0.1
    least_score: float = 0.02
    most_boxes: int = 100
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("queries", "width", "layers", "heads", "mlp_size", "most_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.width % (4 * self.heads):
            raise ValueError(f"width must be a multiple of 4 heads, got {self.width} and {self.heads} heads.")
        if not 0 <= self.dropout < 1 or not 0 <= self.least_score <= 1:
            raise ValueError(
                f"dropout must be in [0, 1) and least_score in [0, 1], got {self.dropout} and {self.least_score}."
            )

    def build(self, model: ImageEncoder) -> DETRModule:
        """Return the module that owns encoder and detector; new weights by torch's global generator.

        Raises:
            ValueError: no class.
        """
        from medalign_core.objectives.detr.module import DETRModule

        if not self.classes:
            raise ValueError("classes must be one or more names, got none.")
        return DETRModule(self, model)
