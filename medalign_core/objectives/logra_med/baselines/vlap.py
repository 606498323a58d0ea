"""VLAP's assignment prediction: what words a sample is assigned to in one set is predicted from its node in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medalign_core.objectives.logra_med.settings import AlignedObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medalign_core.objectives.logra_med.module import ChatModel


@dataclass(frozen=True, kw_only=True)
class ChatVLAP(AlignedObjective):
    """The autoregressive loss plus VLAP (Park, Lee and Sohn, ICLR 2024) on the node sets that LoGra-Med matches.

    Implemented from the paper's abstract and its idea: the language model's word embeddings are fixed centres, optimal
    transport assigns the samples of each set to them under marginals that follow the words' frequency, and each
    assignment is predicted from the other set. The words here are those of the micro-batch's texts, with their counts.

    Attributes:
        temperature: tau of the prediction's softmax, > 0.
        epsilon: of the assignment's entropy, > 0, in units of the cost 1 - cos.
    """

    temperature: float = 0.1
    epsilon: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be > 0 and finite, got {getattr(self, name)}.")

    def new_alignment(self, model: ChatModel) -> nn.Module:
        """Return the mean of the loss over all pairs of node sets; it has no weights of its own."""
        from medalign_core.objectives.logra_med.baselines.word_assignment import WordAssignment

        return WordAssignment(model.network.get_input_embeddings(), temperature=self.temperature, epsilon=self.epsilon)


def vlap_loss(
    s: Tensor, t: Tensor, valid: Tensor, *, words: Tensor, counts: Tensor, temperature: float, epsilon: float
) -> Tensor:
    """Return the mean over valid i of -(1/2) sum_w q^t_iw log p^s_iw + q^s_iw log p^t_iw.

    p_i = softmax_w(cos(z_i, w) / tau). q is the entropic transport plan between the valid samples, of equal weight, and
    the words, weighted by their counts, with costs 1 - cos, each row scaled to sum 1. The gradient goes through p only;
    words are constants. 0, still connected to the nodes, without a valid row.

    Args:
        s: (B, F).
        t: (B, F).
        valid: (B,) bool.
        words: (W, F), embeddings of distinct words.
        counts: (W,), > 0.
        temperature: tau.
        epsilon: of the transport.
    """
    import torch

    from medalign_core.ops.cosine import cosine_table
    from medalign_core.solvers.sinkhorn import Sinkhorn

    cosines = torch.stack([cosine_table(x, words.detach()) for x in (s, t)])  # (2, B, W)
    with torch.no_grad():
        solver = Sinkhorn(epsilon=epsilon, gradient="detach", tol=1e-4)
        there = (valid | ~valid.any()).expand(2, -1)
        plan = solver(1 - cosines, b=counts.to(cosines) / counts.sum(), valid_a=there).plan()
        assigned = plan / plan.sum(dim=2, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    predicted = (cosines / temperature).log_softmax(dim=2)
    terms = -(assigned.flip(0) * predicted).sum(dim=2).mean(dim=0)  # (B,)
    return (terms * valid).sum() / valid.sum().clamp(min=1)
