"""The InfoNCE module and its loss (SimCLR's NT-Xent, eq. 1), with holes left out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.metrics.collapse import embedding_std
from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.projector import new_projector
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.info_nce.settings import InfoNCE
from medalign_core.ops.cosine import at_least_float32, cosine_table, normalize
from medalign_core.types import ImageBatch


class InfoNCEModule(nn.Module):
    """The objective around an encoder; see InfoNCE for its settings."""

    def __init__(self, settings: InfoNCE, encoder: ImageEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.projector = new_projector(
            encoder.feature_size,
            settings.projection_size,
            depth=settings.projector_depth,
            norm=settings.projector_norm,
        )

    def forward(self, batch: ImageBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch with two views, the mean over the views of valid images.

        Stats, detached scalars: matching_accuracy (share of images whose view s is nearest to its own view t) and
        embedding_std (0 is collapse).

        Raises:
            ValueError: fewer than two rows, or not two views.
        """
        rows, views = batch.images.shape[:2]
        self.settings.validate(rows)
        if views != 2:
            raise ValueError(f"InfoNCE compares 2 views, got {views}.")
        images = batch.images[stand_ins(batch.valid)].transpose(0, 1).flatten(0, 1)  # (2 B, 3, H, W), view by view
        pooled = self.encoder(images).pooled
        nodes = self.projector(pooled.to(next(self.projector.parameters()).dtype))
        with torch.autocast(device_type=nodes.device.type, enabled=False):
            view_s, view_t = at_least_float32(nodes).unflatten(0, (2, rows))
            loss = info_nce(view_s, view_t, batch.valid, temperature=self.settings.temperature)
            stats = {
                "matching_accuracy": retrieval_accuracy(view_s.detach(), view_t.detach(), batch.valid),
                "embedding_std": embedding_std(view_s, batch.valid),
            }
        return loss, stats


def info_nce(
    view_s: Float[Tensor, "B F"], view_t: Float[Tensor, "B F"], valid: Bool[Tensor, " B"], *, temperature: float
) -> Float[Tensor, ""]:
    """Return the mean over all 2 B views i of -log( exp(cos(i, i+) / tau) / sum over j != i of exp(cos(i, j) / tau) ).

    i+ is the other view of the same image (Chen et al. 2020, eq. 1). Holes are neither anchors nor negatives; without a
    valid image the loss is 0, still connected to the embeddings. 2 B - 1 equal candidates give log(2 B - 1).
    """
    rows = len(view_s)
    units = normalize(torch.cat([view_s, view_t]))
    present = torch.cat([valid, valid])
    logits = units @ units.T / temperature
    same = torch.eye(2 * rows, dtype=torch.bool, device=logits.device)
    positive = torch.arange(2 * rows, device=logits.device).roll(rows)
    is_positive = torch.zeros_like(same).scatter(1, positive[:, None], True)
    # a hole keeps its own positive as the one candidate: its term is a plain 0, with no infinity to differentiate
    open_to = (present[:, None] & present[None, :] & ~same) | is_positive
    logits = torch.where(open_to, logits, -torch.inf)
    terms = logits.logsumexp(dim=1) - logits.gather(1, positive[:, None])[:, 0]
    return (terms * present).sum() / present.sum().clamp(min=1)


def retrieval_accuracy(
    view_s: Float[Tensor, "B F"], view_t: Float[Tensor, "B F"], valid: Bool[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the share of valid rows of s whose own row of t is strictly the nearest of all valid rows, by cosine."""
    cosine = torch.where(valid[None, :], cosine_table(view_s, view_t), -torch.inf)
    same = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    rivals = cosine.masked_fill(same, -torch.inf).max(dim=1).values
    found = (torch.diagonal(cosine) > rivals) & valid
    return found.sum() / valid.sum().clamp(min=1)
