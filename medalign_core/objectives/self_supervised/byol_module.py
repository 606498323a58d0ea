"""The module of BYOL: an online network with a predictor, and a target network that follows it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.projector import new_projector
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.self_supervised.byol import BYOL, byol_loss
from medalign_core.objectives.self_supervised.target import Target
from medalign_core.objectives.self_supervised.views import Embeddings, embed, encode, project, view_stats
from medalign_core.types import ImageBatch


class BYOLModule(nn.Module):
    """The objective around an encoder; see BYOL for its settings. It `Carries` its target network."""

    def __init__(self, settings: BYOL, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = settings.new_projector(encoder.feature_size)
        self.predictor = new_projector(
            settings.projection_size,
            settings.projection_size,
            depth=2,
            norm=settings.projector_norm,
            hidden=settings.predictor_hidden or encoder.feature_size,
        )
        self.target = Target([encoder, self.projector], settings.momentum)

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch; stats as of `view_stats`, of the projections.

        Each large view predicts the target of the other, each small view those of both.

        Raises:
            ValueError: fewer than two rows, or not two large views.
        """
        rows, valid = len(batch.valid), batch.valid
        self.settings.validate(rows)
        embeddings = embed(self.projector, encode(self.encoder, batch), rows=rows)
        predictions = self._predict(embeddings)
        targets = self._targets(batch)
        with torch.autocast(device_type=valid.device.type, enabled=False):
            pairs = [(predictions.large[0], targets[1]), (predictions.large[1], targets[0])]
            pairs += [(small, target) for small in predictions.small for target in targets]
            losses = [byol_loss(prediction, target, valid) for prediction, target in pairs]
            return torch.stack(losses).mean(), view_stats(embeddings.large, valid)

    def _predict(self, embeddings: Embeddings) -> Embeddings:
        """Return the predictions of all views, the small ones first, as their batch norms have it."""
        views = [None if not len(part) else project(self.predictor, part.flatten(0, 1)) for part in embeddings[::-1]]
        small, large = views
        assert large is not None
        rows = embeddings.large.shape[1]
        return Embeddings(
            large=large.unflatten(0, (-1, rows)),
            small=embeddings.small if small is None else small.unflatten(0, (-1, rows)),
        )

    @torch.no_grad()
    def _targets(self, batch: ImageBatch) -> Float[Tensor, "2 B F"]:
        encoder, projector = self.target.networks
        images = batch.images[stand_ins(batch.valid)].transpose(0, 1).flatten(0, 1)
        return project(projector, encoder(images).pooled).unflatten(0, (2, -1))

    def record(self) -> Tensor:
        """Return nothing: the target follows the weights alone."""
        return torch.zeros(0)

    def end_step(self, records: Float[Tensor, "A n"]) -> None:
        """Move the target network."""
        self.target.follow([self.encoder, self.projector])

    def carried(self) -> dict[str, Tensor]:
        """Return the target network's averages."""
        return self.target.carried("target")

    def load_carried(self, tensors: Mapping[str, Tensor]) -> None:
        """Set them."""
        self.target.load_carried(tensors, "target")
