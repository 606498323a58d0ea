"""The classification module: pooled features through fully connected layers, and the cross-entropy of valid labels."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.classification.settings import Classification
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.tuned_encoder import TunedEncoder
from medalign_core.ops.cosine import at_least_float32
from medalign_core.types import AnnotatedBatch


class ClassificationModule(TunedEncoder):
    """The objective around an encoder; see Classification for its settings."""

    def __init__(self, settings: Classification, encoder: ImageEncoder) -> None:
        super().__init__(encoder, frozen=settings.frozen)
        self.settings = settings
        widths = (encoder.feature_size, *settings.hidden, len(settings.classes))
        layers: list[nn.Module] = []
        for entering, leaving in zip(widths, widths[1:], strict=False):
            layers += [nn.Dropout(settings.dropout), nn.Linear(entering, leaving), nn.ReLU()]
        self.head = nn.Sequential(*layers[:-1])

    def forward(self, batch: AnnotatedBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch: the mean over valid images with a label; 0 where there is none.

        Stats, detached scalars: accuracy, the share of those images whose class has the largest logit.
        """
        logits = self.predict(batch.images[stand_ins(batch.valid)])
        known = batch.valid & (batch.labels >= 0)
        weights = logits.new_tensor(self.settings.class_weights) if self.settings.class_weights else None
        with torch.autocast(device_type=logits.device.type, enabled=False):
            loss = cross_entropy(
                at_least_float32(logits), batch.labels, known, self.settings.label_smoothing, weights=weights
            )
        right = (logits.detach().argmax(1) == batch.labels) & known
        return loss, {"accuracy": right.sum() / known.sum().clamp(min=1)}

    def predict(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes."""
        with self.encoding():
            pooled = self.encoder(images).pooled
        return self.head(pooled.to(next(self.head.parameters()).dtype))


def cross_entropy(
    logits: Float[Tensor, "B C"],
    labels: Tensor,
    known: Tensor,
    label_smoothing: float = 0.0,
    *,
    weights: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the rows that are known, 0 where none is, connected to the logits.

    With class weights it is the weighted mean, as torch has it: divided by the weights of the rows' classes.
    """
    taken = labels.clamp(min=0)
    terms = functional.cross_entropy(logits, taken, weight=weights, reduction="none", label_smoothing=label_smoothing)
    share = known.to(terms.dtype) if weights is None else weights[taken] * known
    return (terms * known).sum() / share.sum().clamp(min=torch.finfo(terms.dtype).tiny)
