"""The segmentation module: an encoder's maps through a U-Net decoder, and the two losses."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from medalign_core.models.dense.unet import UNetDecoder
from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.segmentation.loss import batch_dice, dice_loss, known_pixels, pixel_cross_entropy
from medalign_core.objectives.segmentation.settings import Segmentation
from medalign_core.objectives.tuned_encoder import TunedEncoder
from medalign_core.ops.cosine import at_least_float32
from medalign_core.types import AnnotatedBatch


class SegmentationModule(TunedEncoder):
    """The objective around an encoder; see Segmentation for its settings."""

    def __init__(self, settings: Segmentation, encoder: ImageEncoder) -> None:
        super().__init__(encoder, frozen=settings.frozen)
        self.settings = settings
        self.decoder = UNetDecoder(
            encoder.map_channels,
            finest_stride=encoder.finest_stride,
            classes=len(settings.classes),
            widths=settings.widths,
            stem_width=settings.stem_width,
        )

    def forward(self, batch: AnnotatedBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch: over the known pixels of valid images; 0 where there is none.

        Stats, detached scalars: dice (the mean over classes but the background, over the micro-batch's pixels
        together), cross_entropy and dice_loss.
        """
        logits = self.predict(batch.images[stand_ins(batch.valid)])
        known, masks = known_pixels(batch.masks, batch.valid), batch.masks
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            entropy, dice = pixel_cross_entropy(logits, masks, known), dice_loss(logits, masks, known)
        loss = self.settings.cross_entropy_weight * entropy + self.settings.dice_weight * dice
        scored = batch_dice(logits.detach().argmax(1), masks, known, classes=len(self.settings.classes))
        return loss, {"dice": scored, "cross_entropy": entropy.detach(), "dice_loss": dice.detach()}

    def predict(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H W"]:
        """Return the logits of the classes at every pixel."""
        with self.encoding():
            maps = self.encoder.maps(images)
        kind = next(self.decoder.parameters()).dtype
        pixels = self.encoder.normalise(images).to(kind)
        return self.decoder([each.to(kind) for each in maps], pixels)
