"""The DETR module: an encoder's coarsest map through transformers' conditional DETR, its loss, and boxes of images."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.detection.module import Detected
from medalign_core.objectives.detr.settings import DETR
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.tuned_encoder import TunedEncoder
from medalign_core.types import AnnotatedBatch


class DETRModule(TunedEncoder):
    """The objective around an encoder; see DETR for its settings."""

    def __init__(self, settings: DETR, encoder: ImageEncoder) -> None:
        super().__init__(encoder, frozen=settings.frozen)
        self.settings = settings
        self.detector = _new_detector(settings, encoder.feature_size)

    def forward(self, batch: AnnotatedBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch: transformers' loss of conditional DETR over valid images.

        It matches queries with boxes and sums focal, L1 and generalized IoU losses of every layer; 0 without a valid
        image. Stats, detached scalars: class_loss, box_loss and overlap_loss of the last layer.
        """
        found = self._map(batch.images[stand_ins(batch.valid)])
        chosen = batch.valid if batch.valid.any() else torch.ones_like(batch.valid)
        size = batch.images.new_tensor(batch.images.shape[-2:]).float()
        labels = [
            {"class_labels": named[named >= 0], "boxes": _shares(boxes[named >= 0], size)}
            for boxes, named in zip(batch.boxes[chosen], batch.box_labels[chosen], strict=True)
        ]
        with torch.autocast(device_type=found.device.type, enabled=False):
            said = self.detector(pixel_values=found[chosen].float(), labels=labels)
        names = {"class_loss": "loss_ce", "box_loss": "loss_bbox", "overlap_loss": "loss_giou"}
        stats = {name: said.loss_dict[theirs].detach() for name, theirs in names.items()}
        return said.loss * batch.valid.any(), stats

    @torch.no_grad()
    def detect(self, images: UInt8[Tensor, "B 3 H W"]) -> list[Detected]:
        """Return the boxes of each image, best first; matching leaves nothing to suppress."""
        said = self.detector(pixel_values=self._map(images).float())
        height, width = images.shape[-2:]
        centres, sizes = said.pred_boxes[..., :2], said.pred_boxes[..., 2:]
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1).clamp(0, 1)
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        found = []
        for own, scores in zip(boxes, said.logits.sigmoid(), strict=True):
            best, at = scores.flatten().topk(min(self.settings.most_boxes, scores.numel()))
            at, best = at[best > self.settings.least_score], best[best > self.settings.least_score]
            found.append(Detected(boxes=own[at // scores.shape[1]], scores=best, classes=at % scores.shape[1]))
        return found

    def _map(self, images: Tensor) -> Tensor:
        with self.encoding():
            return self.encoder(images).map


class _Given(nn.Module):
    """Stands where transformers has a backbone: the map is there already."""

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(pixel_values, pixel_mask.bool())]


def _new_detector(settings: DETR, channels: int) -> Any:
    """Return transformers' detector for maps of so many channels, without a backbone of its own."""
    from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ResNetConfig

    last: dict[str, Any] = {"out_features": ["stage1"]}
    throwaway = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", **last)
    labels: dict[str, Any] = {"num_labels": len(settings.classes)}
    config = ConditionalDetrConfig(
        **labels,
        backbone_config=throwaway,
        num_queries=settings.queries,
        d_model=settings.width,
        encoder_layers=settings.layers,
        decoder_layers=settings.layers,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        encoder_ffn_dim=settings.mlp_size,
        decoder_ffn_dim=settings.mlp_size,
        dropout=settings.dropout,
        auxiliary_loss=settings.layers > 1,
    )
    detector = ConditionalDetrForObjectDetection(config)
    detector.model.backbone = _Given()
    detector.model.input_projection = nn.Conv2d(channels, settings.width, kernel_size=1)
    return detector


def _shares(boxes: Float[Tensor, "T 4"], size: Tensor) -> Float[Tensor, "T 4"]:
    """Return boxes as (centre x, centre y, width, height) in shares of the image's width and height."""
    whole = size.flip(0)
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2 / whole, (boxes[:, 2:] - boxes[:, :2]) / whole], dim=1)
