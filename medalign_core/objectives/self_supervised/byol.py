"""BYOL: a predictor finds what a slow network says of an image's other view; there are no negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medalign_core.objectives.self_supervised.contract import SelfSupervised, check_positive, check_share

if TYPE_CHECKING:
    from torch import Tensor

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.byol_module import BYOLModule


@dataclass(frozen=True, kw_only=True)
class BYOL(SelfSupervised):
    """BYOL (Grill et al. 2020). The paper's momentum rises to 1 over its training; here it is constant.

    Attributes:
        momentum: of the target network, in [0, 1].
        predictor_hidden: width of the predictor's hidden layer; None is the encoder's feature size.
    """

    projection_size: int = 256
    momentum: float = 0.996
    predictor_hidden: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "momentum")
        if self.predictor_hidden is not None:
            check_positive(self, "predictor_hidden")

    def build(self, model: ImageEncoder) -> BYOLModule:
        """Return the module that owns both networks and the predictor; new weights by torch's global generator."""
        from medalign_core.objectives.self_supervised.byol_module import BYOLModule

        return BYOLModule(self, model)


def byol_loss(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over valid i of 2 - 2 cos(p_i, z_i), in [0, 4]; z is a constant. 0, connected, without any.

    Args:
        predictions: (B, F).
        targets: (B, F).
        valid: (B,) bool.
    """
    from medalign_core.objectives.self_supervised.views import mean_over_valid
    from medalign_core.ops.cosine import normalize

    cosine = (normalize(predictions) * normalize(targets.detach())).sum(dim=1)
    return mean_over_valid(2 - 2 * cosine, valid)
