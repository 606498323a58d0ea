"""SwAV: a view predicts to which prototypes a balanced assignment gives its image's other view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medalign_core.objectives.self_supervised.contract import SelfSupervised, check_positive

if TYPE_CHECKING:
    from torch import Tensor

    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.swav_module import SwAVModule


@dataclass(frozen=True, kw_only=True)
class SwAV(SelfSupervised):
    """SwAV (Caron et al. 2020), without its optional queue of earlier features.

    Attributes:
        prototypes: K, the clusters; the paper has 3000 for a million images.
        temperature: tau of the prediction; > 0.
        epsilon: of the assignment's entropy; > 0.
        sweeps: of Sinkhorn's updates; the published 3 are far from convergence, and enough.
        frozen_steps: steps at the start in which the prototypes do not move.
    """

    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    sweeps: int = 3
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "prototypes", "temperature", "epsilon", "sweeps")
        if self.frozen_steps < 0:
            raise ValueError(f"frozen_steps must be >= 0, got {self.frozen_steps}.")

    def build(self, model: ImageEncoder) -> SwAVModule:
        """Return the module that owns encoder, projector and prototypes; new weights by torch's global generator."""
        from medalign_core.objectives.self_supervised.swav_module import SwAVModule

        return SwAVModule(self, model)


def balanced_codes(scores: Tensor, valid: Tensor, *, epsilon: float, sweeps: int) -> Tensor:
    """Return codes (B, K): each valid row sums to 1, and the columns are near equal in mass; others are 0.

    exp(scores / epsilon) is scaled `sweeps` times, columns to 1 / K and then rows to 1 / n, in the log domain. The rows
    come last, so they are exact; the columns approach equality as sweeps grow. A constant: no gradient.

    Args:
        scores: (B, K) cosines of embeddings with prototypes.
        valid: (B,) bool, n of them True.
        epsilon: of the entropy.
        sweeps: >= 1.
    """
    import torch

    left_out = (~valid & valid.any())[:, None]  # without a valid row nothing is left to balance: take all, count none
    logs = (scores.detach() / epsilon).masked_fill(left_out, -torch.inf)
    for _ in range(sweeps):
        logs = logs - logs.logsumexp(dim=0, keepdim=True)
        logs = (logs - logs.logsumexp(dim=1, keepdim=True)).masked_fill(left_out, -torch.inf)
    return torch.where(valid[:, None], logs.exp(), 0.0)


def swav_loss(scores: Tensor, codes: Tensor, valid: Tensor, *, temperature: float) -> Tensor:
    """Return the mean over valid i of -sum_k codes_ik log softmax(scores_i / tau)_k; 0, connected, without any.

    Args:
        scores: (B, K) of one view.
        codes: (B, K) of another view, constants.
        valid: (B,) bool.
        temperature: tau.
    """
    from medalign_core.objectives.self_supervised.views import mean_over_valid

    return mean_over_valid(-(codes * (scores / temperature).log_softmax(dim=1)).sum(dim=1), valid)
