"""Optimal transport between node sets: the cost of moving the nodes of one set onto those of another."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from medalign_core.objectives.logra_med.settings import AlignedObjective
from medalign_core.solvers.sinkhorn import Sinkhorn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medalign_core.objectives.logra_med.module import ChatModel


@dataclass(frozen=True, kw_only=True)
class ChatTransport(AlignedObjective):
    """The autoregressive loss plus optimal transport between the same node sets that LoGra-Med matches.

    Attributes:
        loss: "identity": -log of the share of each sample's mass that stays with the sample (cf. inverse optimal
            transport, Shi et al. 2023). "value": V of the solver, the least cost of moving one set onto the other. It
            does not say which sample is which: sets may coincide with samples permuted, and alone it teaches no
            retrieval.
        solver: Sinkhorn on the costs 1 - cos; the plan's gradient for "identity" is exact with gradient "implicit".
    """

    loss: Literal["identity", "value"] = "identity"
    solver: Sinkhorn = field(default_factory=lambda: Sinkhorn(epsilon=0.1, gradient="implicit"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("identity", "value"):
            raise ValueError(f"loss must be 'identity' or 'value', got {self.loss!r}.")
        if self.loss == "identity" and self.solver.gradient not in ("implicit", "unroll"):
            raise ValueError(
                f"the plan must have a gradient for loss 'identity': solver.gradient must be 'implicit' or 'unroll', "
                f"got {self.solver.gradient!r}."
            )

    def new_alignment(self, model: ChatModel) -> nn.Module:
        """Return the mean of the loss over all pairs of node sets; it has no weights."""
        from medalign_core.objectives.logra_med.baselines.pairwise import PairwiseAlignment

        return PairwiseAlignment(partial(transport_loss, solver=self.solver, loss=self.loss))


def transport_loss(
    s: Tensor, t: Tensor, valid: Tensor, *, solver: Sinkhorn, loss: Literal["identity", "value"]
) -> Tensor:
    """Return V of the problem with costs 1 - cos(s_i, t_j) and weights 1/n, or -(1/n) sum of log(n T_ii), T the plan.

    0, still connected to the nodes, without a valid row.

    Args:
        s: (B, F).
        t: (B, F).
        valid: (B,) bool, n of them True.
        solver: balanced or not.
        loss: see ChatTransport.
    """
    import torch

    from medalign_core.ops.cosine import cosine_table

    there = (valid | ~valid.any())[None]  # a problem needs mass; without valid rows its loss counts nothing
    solved = solver((1 - cosine_table(s, t))[None], valid_a=there, valid_b=there)
    if loss == "value":
        return solved.value[0] * valid.any()
    kept = torch.diagonal(solved.plan()[0]) * valid.sum().clamp(min=1)
    terms = torch.where(valid, kept, 1.0).clamp(min=torch.finfo(kept.dtype).tiny).log()
    return -terms.sum() / valid.sum().clamp(min=1)
