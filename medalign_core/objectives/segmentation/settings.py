"""Settings of segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.segmentation.module import SegmentationModule


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Cross-entropy and soft Dice on masks, as LVM-Med's end-to-end protocol has them, under a U-Net decoder.

    Attributes:
        frozen: keep the encoder as it is and train the decoder alone.
        widths: channels of the decoder's steps, from the coarsest on.
        stem_width: channels that the decoder takes from the pixels themselves; 0 leaves them to the encoder.
        cross_entropy_weight: of the cross-entropy in the loss.
        dice_weight: of the Dice loss.
        classes: names by mask value, the background first; those of the corpus where empty.
    """

    annotation: ClassVar[str] = "masks"
    best: ClassVar[str] = "dice"

    frozen: bool = False
    widths: tuple[int, ...] = (256, 128, 64, 32, 16)
    stem_width: int = 16
    cross_entropy_weight: float = 1.0
    dice_weight: float = 1.0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must hold one or more widths >= 1, got {list(self.widths)}.")
        if self.stem_width < 0:
            raise ValueError(f"stem_width must be >= 0, got {self.stem_width}.")
        weights = (self.cross_entropy_weight, self.dice_weight)
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"cross_entropy_weight and dice_weight must be >= 0, one above, got {weights}.")

    def build(self, model: ImageEncoder) -> SegmentationModule:
        """Return the module that owns encoder and decoder; new weights by torch's global generator.

        Raises:
            ValueError: fewer than two classes.
        """
        from medalign_core.objectives.segmentation.module import SegmentationModule

        if len(self.classes) < 2:
            raise ValueError(f"classes must be two or more names, the background first, got {list(self.classes)}.")
        return SegmentationModule(self, model)
