"""The module of VICRegL: one projector for images, one for the cells of their maps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.projector import new_projector
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.self_supervised.vicreg import vicreg_loss
from medalign_core.objectives.self_supervised.vicregl import VICRegL, local_vicreg_loss
from medalign_core.objectives.self_supervised.views import ViewFeatures, embed, encode, project, view_pairs, view_stats
from medalign_core.ops.location import location_grid
from medalign_core.types import ImageBatch

Cells = tuple[Tensor, Tensor]  # projected cells (V, B, P, F) and their centres (V, B, P, 2)


class VICRegLModule(nn.Module):
    """The objective around an encoder; see VICRegL for its settings."""

    def __init__(self, settings: VICRegL, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = settings.new_projector(encoder.feature_size)
        size = settings.local_size
        self.cell_projector = new_projector(
            encoder.feature_size, size, depth=3, norm=settings.projector_norm, hidden=size
        )

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch; stats as of `view_stats`, and local_loss.

        Raises:
            ValueError: fewer than two rows, or not two large views.
        """
        settings, rows, valid = self.settings, len(batch.valid), batch.valid
        settings.validate(rows)
        features = encode(self.encoder, batch)
        embeddings = embed(self.projector, features, rows=rows)
        small, large = self._cells(batch, features)
        with torch.autocast(device_type=valid.device.type, enabled=False):
            whole = [vicreg_loss(s, t, valid, weights=settings.weights) for s, t in view_pairs(embeddings)]
            local = self._local_loss(large, small, valid)
            loss = settings.alpha * torch.stack(whole).mean() + (1 - settings.alpha) * local
            return loss, {**view_stats(embeddings.large, valid), "local_loss": local.detach()}

    def _cells(self, batch: ImageBatch, features: ViewFeatures) -> tuple[Cells | None, Cells]:
        """Return the cells of the small and of the large views, the small ones projected first."""
        rows = stand_ins(batch.valid)
        small = None
        if features.small is not None:
            assert batch.small_boxes is not None
            assert batch.small_flipped is not None
            small = self._cells_of(features.small.map, batch.small_boxes[rows], batch.small_flipped[rows])
        return small, self._cells_of(features.large.map, batch.boxes[rows], batch.flipped[rows])

    def _cells_of(
        self, maps: Float[Tensor, "M D R S"], boxes: Float[Tensor, "B V 4"], flipped: Bool[Tensor, "B V"]
    ) -> Cells:
        height, width = maps.shape[2:]
        views = (boxes.shape[1], boxes.shape[0])
        cells = project(self.cell_projector, maps.flatten(2).transpose(1, 2).flatten(0, 1))  # (M P, F)
        grid = location_grid(boxes.transpose(0, 1).float(), flipped.transpose(0, 1), rows=height, columns=width)
        return cells.unflatten(0, (*views, height * width)), grid

    def _local_loss(self, large: Cells, small: Cells | None, valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
        settings = self.settings
        cells, grids = large
        losses = [self._between((cells[0], cells[1]), (grids[0], grids[1]), valid, matches=settings.local_matches)]
        for own, at in zip(*small, strict=True) if small is not None else ():
            for view in range(2):
                pair, places = (cells[view], own), (grids[view], at)
                losses.append(self._between(pair, places, valid, matches=settings.small_matches))
        return torch.stack(losses).mean()

    def _between(self, cells: Cells, grids: Cells, valid: Tensor, *, matches: int) -> Tensor:
        return local_vicreg_loss(cells, grids, valid, matches=matches, weights=self.settings.weights)
