"""The module of SwAV: encoder, projector and prototypes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.self_supervised.swav import SwAV, balanced_codes, swav_loss
from medalign_core.objectives.self_supervised.views import embed, encode, view_stats
from medalign_core.ops.cosine import at_least_float32, normalize
from medalign_core.types import ImageBatch


class SwAVModule(nn.Module):
    """The objective around an encoder; see SwAV for its settings.

    The prototypes are compared by their direction: their length is no weight of the loss, so nothing rescales them.
    """

    def __init__(self, settings: SwAV, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = settings.new_projector(encoder.feature_size)
        self.prototypes = nn.Parameter(torch.randn(settings.prototypes, settings.projection_size))

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch; stats as of `view_stats`, and prototypes_used.

        Codes are those of the large views; every other view predicts them. prototypes_used is the share of prototypes
        that are the first of some code of view s.

        Raises:
            ValueError: fewer than two rows, or not two large views.
        """
        settings, rows, valid = self.settings, len(batch.valid), batch.valid
        settings.validate(rows)
        embeddings = embed(self.projector, encode(self.encoder, batch), rows=rows)
        with torch.autocast(device_type=valid.device.type, enabled=False):
            prototypes = at_least_float32(self.prototypes)
            if self.training and batch.key.step < settings.frozen_steps:
                prototypes = prototypes.detach() + 0.0 * prototypes  # a gradient of zeros
            scores = normalize(torch.cat(embeddings)) @ normalize(prototypes).T  # (2 + W, B, K)
            losses = []
            for view in range(2):
                codes = balanced_codes(scores[view], valid, epsilon=settings.epsilon, sweeps=settings.sweeps)
                others = [score for number, score in enumerate(scores) if number != view]
                losses += [swav_loss(s, codes, valid, temperature=settings.temperature) for s in others]
                if view == 0:
                    used = _share_used(codes, valid)
            return torch.stack(losses).mean(), {**view_stats(embeddings.large, valid), "prototypes_used": used}


def _share_used(codes: Float[Tensor, "B K"], valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    winners = nn.functional.one_hot(codes.argmax(dim=1), codes.shape[1]) * valid[:, None]
    return winners.amax(dim=0).float().mean()
