"""Settings of detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.detection.module import DetectionModule


@dataclass(frozen=True, kw_only=True)
class Detection:
    """FCOS (Tian et al. 2019) on boxes: focal loss of classes, generalized IoU of boxes, centre-ness.

    Attributes:
        frozen: keep the encoder as it is and train pyramid and head alone.
        levels: how many of the encoder's maps, from the coarsest on, the pyramid takes; those there are, if fewer.
        width: channels of the pyramid and the head.
        depth: convolutions of each tower of the head.
        centre_radius: a place learns a box if it is nearer to its centre than so many cells.
        focal_alpha: weight of the places with an object in the focal loss.
        focal_gamma: how strongly easy places are played down; 0 is cross-entropy.
        least_score: boxes below it are not returned.
        most_iou: overlap with a better box of its class above which a box is not returned.
        most_boxes: of an image that are returned, the best.
        classes: names, sorted; those of the corpus's boxes where empty.
    """

    annotation: ClassVar[str] = "boxes"
    best: ClassVar[str] = "-loss"

    frozen: bool = False
    levels: int = 3
    width: int = 128
    depth: int = 2
    centre_radius: float = 1.5
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    least_score: float = 0.02
    most_iou: float = 0.6
    most_boxes: int = 100
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("levels", "width", "depth", "most_boxes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        for name in ("focal_alpha", "most_iou", "least_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        if not self.centre_radius > 0 or not self.focal_gamma >= 0:
            raise ValueError(
                f"centre_radius must be > 0 and focal_gamma >= 0, got {self.centre_radius} and {self.focal_gamma}."
            )

    def build(self, model: ImageEncoder) -> DetectionModule:
        """Return the module that owns encoder, pyramid and head; new weights by torch's global generator.

        Raises:
            ValueError: no class.
        """
        from medalign_core.objectives.detection.module import DetectionModule

        if not self.classes:
            raise ValueError("classes must be one or more names, got none.")
        return DetectionModule(self, model)
