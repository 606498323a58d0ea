"""SigLIP between node sets: every pair of samples is a yes-or-no question of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medalign_core.objectives.logra_med.settings import AlignedObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medalign_core.objectives.logra_med.module import ChatModel


@dataclass(frozen=True, kw_only=True)
class ChatSigLIP(AlignedObjective):
    """The autoregressive loss plus SigLIP's (Zhai et al. 2023) on the same node sets that LoGra-Med matches.

    Attributes:
        scale: what cosines are multiplied by at the start, > 0.
        bias: what is added to them at the start; -10 starts where hardly any pair is believed.
        learned: whether both are trained, scale by its logarithm, or stay.
    """

    scale: float = 10.0
    bias: float = -10.0
    learned: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < float("inf") or not abs(self.bias) < float("inf"):
            raise ValueError(f"scale must be > 0 and finite, bias finite, got {self.scale} and {self.bias}.")

    def new_alignment(self, model: ChatModel) -> nn.Module:
        """Return the mean of the loss over all pairs of node sets; scale and bias are its weights if learned."""
        from medalign_core.objectives.logra_med.baselines.learned_logits import LearnedLogits
        from medalign_core.objectives.logra_med.baselines.pairwise import PairwiseAlignment

        if self.learned:
            return PairwiseAlignment(LearnedLogits(siglip_loss, scale=self.scale, bias=self.bias))
        return PairwiseAlignment(partial(siglip_loss, log_scale=math.log(self.scale), bias=self.bias))


def siglip_loss(s: Tensor, t: Tensor, valid: Tensor, *, log_scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """Return -(1/n) sum over valid i, j of log sigmoid(y_ij (scale cos(s_i, t_j) + bias)), y_ii = 1, else -1.

    (Zhai et al. 2023, sec. 3.2.) 0, still connected, without a valid row.

    Args:
        s: (B, F).
        t: (B, F).
        valid: (B,) bool, n of them True.
        log_scale: the logarithm of the scale.
        bias: added to the scaled cosines.
    """
    import torch
    from torch.nn import functional

    from medalign_core.ops.cosine import cosine_table

    scale = log_scale.exp() if isinstance(log_scale, torch.Tensor) else math.exp(log_scale)
    logits = cosine_table(s, t) * scale + bias
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    terms = torch.where(valid[:, None] & valid[None, :], functional.logsigmoid(sign * logits), 0.0)
    return -terms.sum() / valid.sum().clamp(min=1)
