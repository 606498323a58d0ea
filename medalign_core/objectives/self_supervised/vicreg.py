"""VICReg: views of an image are drawn together while each feature keeps its spread and no two vary together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medalign_core.objectives.self_supervised.contract import SelfSupervised, check_positive

if TYPE_CHECKING:
    from torch import Tensor

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.pairwise import PairwiseModule

EPSILON = 1e-4  # under the root of the variance


@dataclass(frozen=True, kw_only=True)
class VICReg(SelfSupervised):
    """VICReg (Bardes et al. 2022). The paper's expander is 8192-8192-8192; wide ones do better.

    Attributes:
        invariance: weight of the squared distance between views, > 0.
        variance: weight of the hinge that keeps each feature's standard deviation above 1, > 0.
        covariance: weight of the squared covariances, > 0.
    """

    projection_size: int = 512
    projector_depth: int = 3
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "invariance", "variance", "covariance")

    @property
    def weights(self) -> tuple[float, float, float]:
        """The weights of the three terms, in the order of the name."""
        return self.invariance, self.variance, self.covariance

    def build(self, model: ImageEncoder) -> PairwiseModule:
        """Return the module that owns the encoder and the expander; new weights by torch's global generator."""
        from medalign_core.objectives.self_supervised.pairwise import PairwiseModule

        return PairwiseModule(self, model, partial(vicreg_loss, weights=self.weights))


def vicreg_loss(s: Tensor, t: Tensor, valid: Tensor, *, weights: tuple[float, float, float]) -> Tensor:
    """Return w_i mean (s - t)^2 + w_v (v(s) + v(t)) / 2 + w_c (c(s) + c(t)), over the n valid rows.

    v(z) = mean over features of max(0, 1 - sqrt(Var z + 1e-4)); c(z) = the sum of the squares of Cov(z) off its
    diagonal, over F; both with 1 / (n - 1). The mean over features in the first term, and the half in the second, make
    the terms comparable whatever F. With fewer than two valid rows the loss is 0, still connected.

    Args:
        s: (..., B, F); leading axes are independent problems, whose losses are averaged.
        t: (..., B, F).
        valid: (B,) bool.
        weights: (w_i, w_v, w_c).
    """
    import torch

    mask = valid[:, None]
    s, t = (torch.where(mask, z, 0.0) for z in (s, t))
    rows = valid.sum().clamp(min=1)
    distance = (s - t).square().sum(dim=(-2, -1)) / (rows * s.shape[-1])
    (spread_s, joint_s), (spread_t, joint_t) = (_spread_and_redundancy(z, mask) for z in (s, t))
    invariance, variance, covariance = weights
    total = invariance * distance + variance * (spread_s + spread_t) / 2 + covariance * (joint_s + joint_t)
    return total.mean() * (valid.sum() > 1)


def _spread_and_redundancy(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return v and c of (..., B, F) rows whose masked ones are 0."""
    import torch

    count = mask.sum()
    centred = torch.where(mask, rows - rows.sum(dim=-2, keepdim=True) / count.clamp(min=1), 0.0)
    covariance = centred.transpose(-1, -2) @ centred / (count - 1).clamp(min=1)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    hinge = torch.relu(1 - (variance + EPSILON).sqrt()).mean(dim=-1)
    joint = (covariance.square().sum(dim=(-2, -1)) - variance.square().sum(dim=-1)) / rows.shape[-1]
    return hinge, joint
