"""What the self-supervised baselines share: the settings of their projector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class SelfSupervised:
    """An objective between augmented views of images; a method adds its keys and `build`.

    Attributes:
        projection_size: F, the width of the projected embedding.
        projector_depth: linear maps in the projector, with ReLU between.
        projector_hidden: width of its hidden layers; None is the encoder's feature size.
        projector_norm: batch norm on its hidden layers, "none" or "batch".
    """

    projection_size: int = 128
    projector_depth: int = 2
    projector_hidden: int | None = None
    projector_norm: Literal["none", "batch"] = "batch"

    def __post_init__(self) -> None:
        for name in ("projection_size", "projector_depth", "projector_hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        if self.projector_norm not in ("none", "batch"):
            raise ValueError(f"projector_norm must be 'none' or 'batch', got {self.projector_norm!r}.")

    def validate(self, micro_batch: int) -> None:
        """Check that a micro-batch holds other images to compare with.

        Raises:
            ValueError: it does not.
        """
        if micro_batch < 2:
            raise ValueError(f"micro_batch must be >= 2 (images are compared with each other), got {micro_batch}.")

    def new_projector(self, feature_size: int) -> nn.Sequential:
        """Return the projector from D to F; new weights by torch's global generator."""
        from medalign_core.models.projector import new_projector

        return new_projector(
            feature_size,
            self.projection_size,
            depth=self.projector_depth,
            norm=self.projector_norm,
            hidden=self.projector_hidden,
        )


def check_positive(settings: object, *names: str) -> None:
    """Raise a ValueError unless each named number is > 0 and finite."""
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be > 0 and finite, got {value}.")


def check_share(settings: object, *names: str) -> None:
    """Raise a ValueError unless each named number is in [0, 1]."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}.")
