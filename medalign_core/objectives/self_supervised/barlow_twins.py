"""Barlow Twins: the cross-correlation of two views' features is to be the identity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medalign_core.objectives.self_supervised.contract import SelfSupervised, check_positive

if TYPE_CHECKING:
    from torch import Tensor

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.pairwise import PairwiseModule

EPSILON = 1e-5  # added to variances: a feature without spread correlates with nothing


@dataclass(frozen=True, kw_only=True)
class BarlowTwins(SelfSupervised):
    """Barlow Twins (Zbontar et al. 2021). The paper's projector is 8192-8192-8192; wide ones do better.

    Attributes:
        redundancy: weight of the squares off the diagonal, > 0.
        scale: what the whole loss is multiplied by, > 0: it grows with F, which a clipped or adaptive step hides.
    """

    projection_size: int = 512
    projector_depth: int = 3
    redundancy: float = 5e-3
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "redundancy", "scale")

    def build(self, model: ImageEncoder) -> PairwiseModule:
        """Return the module that owns the encoder and the projector; new weights by torch's global generator."""
        from medalign_core.objectives.self_supervised.pairwise import PairwiseModule

        return PairwiseModule(self, model, partial(barlow_twins_loss, redundancy=self.redundancy, scale=self.scale))


def barlow_twins_loss(s: Tensor, t: Tensor, valid: Tensor, *, redundancy: float, scale: float = 1.0) -> Tensor:
    """Return scale * ( sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2 ).

    C_ij = (1/n) sum_b s_bi t_bj of features standardised over the n valid rows (biased variance + 1e-5). Without a
    valid row the loss is 0, still connected.

    Args:
        s: (B, F).
        t: (B, F).
        valid: (B,) bool.
        redundancy: weight of the squares off the diagonal.
        scale: multiplies the whole.
    """
    correlation = _standardise(s, valid).T @ _standardise(t, valid) / valid.sum().clamp(min=1)
    own = correlation.diagonal()
    on = (1 - own).square().sum()
    off = correlation.square().sum() - own.square().sum()
    return scale * (on + redundancy * off) * valid.any()


def _standardise(rows: Tensor, valid: Tensor) -> Tensor:
    import torch

    count = valid.sum().clamp(min=1)
    rows = torch.where(valid[:, None], rows, 0.0)
    centred = torch.where(valid[:, None], rows - rows.sum(dim=0) / count, 0.0)
    return centred / (centred.square().sum(dim=0) / count + EPSILON).sqrt()
