"""The module of an objective that is a loss between two views, averaged over pairs of views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.self_supervised.contract import SelfSupervised
from medalign_core.objectives.self_supervised.views import embed, encode, view_pairs, view_stats
from medalign_core.types import ImageBatch

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (B, F), (B, F), valid (B,) -> a scalar


class PairwiseModule(nn.Module):
    """The mean over all pairs of views of pair_loss(s, t, valid): the two large ones, and each of them with each small.

    Args:
        settings: of the objective.
        encoder: that is trained.
        pair_loss: between two views; rows that are not valid must not matter to it.
    """

    def __init__(self, settings: SelfSupervised, encoder: ImageEncoder, pair_loss: PairLoss) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = settings.new_projector(encoder.feature_size)
        self._pair_loss = pair_loss

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch; stats as of `view_stats`.

        Raises:
            ValueError: fewer than two rows, or not two large views.
        """
        rows = len(batch.valid)
        self.settings.validate(rows)
        embeddings = embed(self.projector, encode(self.encoder, batch), rows=rows)
        with torch.autocast(device_type=batch.images.device.type, enabled=False):
            losses = [self._pair_loss(s, t, batch.valid) for s, t in view_pairs(embeddings)]
            return torch.stack(losses).mean(), view_stats(embeddings.large, batch.valid)
