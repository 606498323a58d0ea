"""Settings of box-prompted segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.box_prompts.module import BoxPromptModule


@dataclass(frozen=True, kw_only=True)
class BoxPrompts:
    """Dice and cross-entropy on the mask within a box, LVM-Med's prompt protocol: image and prompt encoder frozen.

    The box of each class that an image has is that of its mask, grown on every side.

    Attributes:
        sam: a local directory or hub id of a SamModel whose prompt encoder and mask decoder are taken; None makes new
            ones of the sizes below. The platform opens it and hands it to `build`.
        frozen: keep the image encoder as it is.
        frozen_prompts: keep the prompt encoder as it is.
        growth: a side of a box is moved outwards by 0 to growth - 1 pixels of a 256 px mask, drawn anew for every box
            in training; by half of the largest when masks are predicted.
        width: channels of the decoder; heads divide it.
        layers: of its transformer.
        heads: its attention heads.
        mlp_size: width of its perceptrons.
        classes: names by mask value, the background first; those of the corpus where empty.
    """

    annotation: ClassVar[str] = "masks"
    best: ClassVar[str] = "dice"

    sam: str | None = None
    frozen: bool = True
    frozen_prompts: bool = True
    growth: int = 20
    width: int = 256
    layers: int = 2
    heads: int = 8
    mlp_size: int = 2048
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("growth", "width", "layers", "heads", "mlp_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.width % (2 * self.heads) or self.width % 8:
            raise ValueError(f"width must be a multiple of 8 and of 2 heads, got {self.width} and {self.heads} heads.")

    def build(self, model: ImageEncoder, sam: nn.Module | None = None) -> BoxPromptModule:
        """Return the module around an encoder and `sam`, a transformers SamModel, or a new one of random weights.

        Raises:
            ValueError: fewer than two classes.
        """
        from medalign_core.models.dense.prompted import new_sam
        from medalign_core.objectives.box_prompts.module import BoxPromptModule

        if len(self.classes) < 2:
            raise ValueError(f"classes must be two or more names, the background first, got {list(self.classes)}.")
        if sam is None:
            sizes = {"width": self.width, "layers": self.layers, "heads": self.heads, "mlp_size": self.mlp_size}
            sam = new_sam(**sizes, side=1024)
        return BoxPromptModule(self, model, sam)
