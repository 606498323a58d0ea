"""An alignment that is a loss between two node sets, averaged over all pairs of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.models.multimodal.batch import ChatBatch
from medalign_core.objectives.info_nce.module import retrieval_accuracy
from medalign_core.ops.cosine import at_least_float32

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


class PairwiseAlignment(nn.Module):
    """The mean over all K (K - 1) / 2 pairs of node sets of loss(s, t, valid).

    `pair_loss` may be a module; its weights are then the alignment's.
    """

    def __init__(self, pair_loss: PairLoss) -> None:
        super().__init__()
        self.pair_loss = pair_loss

    def forward(
        self, nodes: dict[str, Float[Tensor, "B F"]], valid: Bool[Tensor, " B"], batch: ChatBatch
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats).

        Stats: matching_accuracy_S_T for each pair, the share of samples of S whose own node of T is strictly nearest by
        cosine, and matching_accuracy, their mean.
        """
        return mean_over_pairs(self.pair_loss, nodes, valid)


def mean_over_pairs(
    pair_loss: PairLoss, nodes: dict[str, Float[Tensor, "B F"]], valid: Bool[Tensor, " B"]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return (loss, stats) of PairwiseAlignment; what is in rows that are not valid does not matter."""
    sets = {name: torch.where(valid[:, None], at_least_float32(x), 0.0) for name, x in nodes.items()}
    losses, stats = [], {}
    for s, t in combinations(sets, 2):
        losses.append(pair_loss(sets[s], sets[t], valid))
        stats[f"matching_accuracy_{s}_{t}"] = retrieval_accuracy(sets[s].detach(), sets[t].detach(), valid)
    stats["matching_accuracy"] = torch.stack(list(stats.values())).mean()
    return torch.stack(losses).mean(), stats
