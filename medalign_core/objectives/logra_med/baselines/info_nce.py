"""InfoNCE between node sets: each sample finds itself in every other set, among the samples of the micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from medalign_core.objectives.logra_med.settings import AlignedObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medalign_core.objectives.logra_med.module import ChatModel


@dataclass(frozen=True, kw_only=True)
class ChatInfoNCE(AlignedObjective):
    """The autoregressive loss plus InfoNCE on the same node sets that LoGra-Med matches.

    Attributes:
        temperature: tau, divides the cosines; > 0.
        negatives: "across": the other samples in the other set, as in CLIP; "all": those of the own set too, as in
            SimCLR (objectives.info_nce).
    """

    temperature: float = 0.07
    negatives: Literal["across", "all"] = "across"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}.")
        if self.negatives not in ("across", "all"):
            raise ValueError(f"negatives must be 'across' or 'all', got {self.negatives!r}.")

    def new_alignment(self, model: ChatModel) -> nn.Module:
        """Return the mean of the loss over all pairs of node sets; it has no weights."""
        from medalign_core.objectives.info_nce.module import info_nce
        from medalign_core.objectives.logra_med.baselines.pairwise import PairwiseAlignment

        pair_loss = info_nce if self.negatives == "all" else clip_loss
        return PairwiseAlignment(partial(pair_loss, temperature=self.temperature))


def clip_loss(s: Tensor, t: Tensor, valid: Tensor, *, temperature: float) -> Tensor:
    """Return the mean over valid i and both directions of -log softmax_j(cos(s_i, t_j) / tau) at j = i.

    (Radford et al. 2021, fig. 3.) Rows that are not valid are neither anchors nor negatives; without a valid row the
    loss is 0, still connected to the nodes. n equal candidates give log n.

    Args:
        s: (B, F).
        t: (B, F).
        valid: (B,) bool.
        temperature: tau.
    """
    import torch

    from medalign_core.ops.cosine import cosine_table

    logits = cosine_table(s, t) / temperature
    same = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    # a row that is not valid keeps itself as its one candidate: its term is a plain 0
    logits = torch.where((valid[:, None] & valid[None, :]) | same, logits, -torch.inf)
    own = torch.diagonal(logits)
    terms = logits.logsumexp(dim=1) + logits.logsumexp(dim=0) - 2 * own
    return (terms * valid).sum() / (2 * valid.sum().clamp(min=1))
