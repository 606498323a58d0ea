"""A small CNN, fine-tuned: the baseline without texts. Settings, the tower of its frozen part, and the module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder, ImageTower
    from medalign_core.objectives.few_shot.contract import ClassTexts, FewShotMethod, Support


@dataclass(frozen=True, kw_only=True)
class FineTunedCnn:
    """EfficientNet-Lite0 of ImageNet: its last block, its last convolution and a new linear head learn.

    What lies below the last block is frozen, so what it makes of an augmented view is encoded once and kept, as the
    features of the other methods are: training on the kept maps is training on the images. No text is looked at, and
    the dual encoder's own image tower is not either.
    """

    schedule: ClassVar[Schedule] = Schedule(
        optimizer="adamw", learning_rate=5e-4, weight_decay=1e-2, epochs=((16, 30),), batch=32
    )
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = False

    def open_tower(self) -> ImageTower:
        """Return what encodes its images: the network up to its last block.

        Raises:
            UserError: the package that holds the weights is not installed.
        """
        from medalign.dual_encoders import open_classifier
        from medalign.few_shot.fine_tuned_module import Trunk

        return Trunk(open_classifier())

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> FewShotMethod:
        """Return the module; its head starts at zero, so nothing is drawn and the seed is not looked at."""
        from medalign.dual_encoders import open_classifier
        from medalign.few_shot.fine_tuned_module import LastLayers

        network = open_classifier()
        return LastLayers(network.blocks[-1], network.head, classes=len(texts.names))
