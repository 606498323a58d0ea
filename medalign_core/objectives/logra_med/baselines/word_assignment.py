"""VLAP's alignment around a language model's word embeddings."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medalign_core.models.multimodal.batch import ChatBatch
from medalign_core.objectives.logra_med.baselines.pairwise import mean_over_pairs
from medalign_core.objectives.logra_med.baselines.vlap import vlap_loss
from medalign_core.ops.cosine import at_least_float32


class WordAssignment(nn.Module):
    """The mean of `vlap_loss` over all pairs of node sets, with the words of each micro-batch's texts."""

    def __init__(self, embedding: nn.Module, *, temperature: float, epsilon: float) -> None:
        super().__init__()
        self._embedding = [embedding]  # in a list: its weights are the model's and not this module's too
        self._loss = partial(vlap_loss, temperature=temperature, epsilon=epsilon)

    def forward(
        self, nodes: dict[str, Float[Tensor, "B F"]], valid: Bool[Tensor, " B"], batch: ChatBatch
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats), those of PairwiseAlignment and `words`, how many distinct ones there were."""
        tokens, counts = _words(batch)
        with torch.no_grad():  # called, not read: an engine may have split the weights
            words = at_least_float32(self._embedding[0](tokens))
        loss, stats = mean_over_pairs(partial(self._loss, words=words, counts=counts), nodes, valid)
        return loss, stats | {"words": torch.tensor(float(len(tokens)), device=loss.device)}


def _words(batch: ChatBatch) -> tuple[Int[Tensor, " W"], Int[Tensor, " W"]]:
    """Return the distinct tokens of the answers of the micro-batch, long and short, and how often each occurs."""
    texts = [(batch.answer_tokens, batch.answer_attended), (batch.extended_tokens, batch.extended_attended)]
    tokens = [t[a] for t, a in texts if t is not None and a is not None]
    if not tokens:
        targets = batch.conversation_labels
        tokens = [targets[targets >= 0]]
    found = torch.cat(tokens)
    if len(found) == 0:  # a padding micro-batch: any word will do, its loss counts nothing
        found = torch.zeros(1, dtype=torch.long, device=batch.valid.device)
    distinct, counts = found.unique(return_counts=True)
    return distinct, counts
