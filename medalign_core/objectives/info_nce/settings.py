"""Settings of the InfoNCE baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.info_nce.module import InfoNCEModule


@dataclass(frozen=True, kw_only=True)
class InfoNCE:
    """SimCLR (Chen et al. 2020): each view finds the other view of its image among all views of the micro-batch.

    Attributes:
        projection_size: F, the width of the projected embedding.
        projector_depth: linear maps in the projector, with ReLU between.
        projector_norm: batch norm in the projector, "none" or "batch".
        temperature: tau, divides the cosines; > 0.
    """

    projection_size: int = 128
    projector_depth: int = 2
    projector_norm: Literal["none", "batch"] = "none"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.projection_size < 1 or self.projector_depth < 1:
            raise ValueError(
                "projection_size and projector_depth must be >= 1, "
                f"got {self.projection_size} and {self.projector_depth}."
            )
        if self.projector_norm not in ("none", "batch"):
            raise ValueError(f"projector_norm must be 'none' or 'batch', got {self.projector_norm!r}.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}.")

    def validate(self, micro_batch: int) -> None:
        """Check that a micro-batch holds negatives.

        Raises:
            ValueError: it does not.
        """
        if micro_batch < 2:
            raise ValueError(f"micro_batch must be >= 2 (the other images are the negatives), got {micro_batch}.")

    def build(self, model: ImageEncoder) -> InfoNCEModule:
        """Return the module that owns the encoder and the projector; new weights by torch's global generator."""
        from medalign_core.objectives.info_nce.module import InfoNCEModule

        return InfoNCEModule(self, model)
