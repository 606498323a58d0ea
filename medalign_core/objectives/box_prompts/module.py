"""The box-prompted module: boxes of the masks, grown, through SAM's decoder; Dice and cross-entropy of each mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dense.prompted import PromptedDecoder
from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.box_prompts.settings import BoxPrompts
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.segmentation.loss import batch_dice, known_pixels
from medalign_core.objectives.tuned_encoder import TunedEncoder
from medalign_core.ops.draws import draw_seed
from medalign_core.types import AnnotatedBatch

NEVER = -1e4  # a logit that is as good as minus infinity, and survives a resize: 0 times infinity is NaN
MASK_SIDE = 256  # pixels that `growth` is counted in


class BoxPromptModule(TunedEncoder):
    """The objective around an encoder; see BoxPrompts for its settings."""

    is_prompted = True  # its predictions need the boxes of the truth

    def __init__(self, settings: BoxPrompts, encoder: ImageEncoder, sam: nn.Module) -> None:
        super().__init__(encoder, frozen=settings.frozen)
        self.settings = settings
        self.decoder = PromptedDecoder(sam, channels=encoder.feature_size)
        self.decoder.prompt_encoder.mask_embed.requires_grad_(False)  # no mask is a prompt here: never a gradient
        if settings.frozen_prompts:
            self.decoder.prompt_encoder.requires_grad_(False)
        unused = self.decoder.mask_decoder
        unused.iou_prediction_head.requires_grad_(False)
        for head in unused.output_hypernetworks_mlps[1:]:
            head.requires_grad_(False)

    def forward(self, batch: AnnotatedBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch: the mean over the masks of valid images; 0 where there is none.

        Stats, detached scalars: dice (see `batch_dice`).
        """
        known = known_pixels(batch.masks, batch.valid)
        boxes, there = mask_boxes(batch.masks, known, classes=len(self.settings.classes))
        grown = self._grow(boxes, batch)
        logits = self.decode(batch.images[stand_ins(batch.valid)], grown)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            loss = mask_loss(logits, batch.masks, known, there)
        chosen = self.choose(logits.detach(), there)
        return loss, {"dice": batch_dice(chosen, batch.masks, known, classes=len(self.settings.classes))}

    def predict(self, images: UInt8[Tensor, "B 3 H W"], masks: UInt8[Tensor, "B H W"]) -> Float[Tensor, "B C H W"]:
        """Return the logits of the classes at every pixel, the background's 0, given the boxes of the true masks."""
        everywhere = known_pixels(masks, torch.ones(len(masks), dtype=torch.bool, device=masks.device))
        boxes, there = mask_boxes(masks, everywhere, classes=len(self.settings.classes))
        grown = grow_boxes(boxes, (self.settings.growth - 1) / 2, size=tuple(masks.shape[-2:]))
        logits = self.decode(images, grown).masked_fill(~there[..., None, None], NEVER)
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def decode(self, images: UInt8[Tensor, "B 3 H W"], boxes: Float[Tensor, "B K 4"]) -> Float[Tensor, "B K H W"]:
        """Return the logits of the mask of every box, in pixels of the images."""
        with self.encoding():
            found = self.encoder(images).map
        height, width = images.shape[-2:]
        kind = next(self.decoder.mask_decoder.parameters()).dtype
        return self.decoder(found.to(kind), boxes, (int(height), int(width)))

    @staticmethod
    def choose(logits: Float[Tensor, "B K H W"], there: Bool[Tensor, "B K"]) -> Int[Tensor, "B H W"]:
        """Return the class of every pixel: the surest mask that holds it, else the background."""
        surest, at = logits.masked_fill(~there[..., None, None], -torch.inf).max(1)
        return torch.where(surest > 0, at + 1, 0)

    def _grow(self, boxes: Tensor, batch: AnnotatedBatch) -> Tensor:
        """Move every side outwards by a keyed draw."""
        draws = torch.Generator().manual_seed(draw_seed(*batch.key, "boxes"))
        pixels = torch.randint(self.settings.growth, boxes.shape, generator=draws).to(boxes)
        return grow_boxes(boxes, pixels, size=tuple(batch.masks.shape[-2:]))


def grow_boxes(
    boxes: Float[Tensor, "B K 4"], pixels: Float[Tensor, "B K 4"] | float, *, size: tuple[int, ...]
) -> Float[Tensor, "B K 4"]:
    """Return boxes with their sides moved outwards by pixels of a 256 px mask, cut at the image of `size` (H, W)."""
    height, width = size
    outwards = boxes.new_tensor([-width, -height, width, height]) / MASK_SIDE
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum((boxes + pixels * outwards).clamp(min=0), limit)


def mask_boxes(
    masks: UInt8[Tensor, "B H W"], known: Bool[Tensor, "B H W"], *, classes: int
) -> tuple[Float[Tensor, "B K 4"], Bool[Tensor, "B K"]]:
    """Return the box (left, top, right, bottom) of each class but the background, and which images have it.

    Right and bottom are exclusive. The box of a class that an image lacks is the whole image.
    """
    height, width = masks.shape[-2:]
    numbers = torch.arange(1, classes, device=masks.device)[None, :, None, None]
    inside = (masks[:, None] == numbers) & known[:, None]  # (B, K, H, W)
    rows, columns = inside.any(-1), inside.any(-2)
    there = rows.any(-1)
    left, right = _ends(columns)
    top, bottom = _ends(rows)
    boxes = torch.stack([left, top, right, bottom], dim=-1).float()
    whole = boxes.new_tensor([0, 0, width, height])
    return torch.where(there[..., None], boxes, whole), there


def mask_loss(
    logits: Float[Tensor, "B K H W"],
    masks: UInt8[Tensor, "B H W"],
    known: Bool[Tensor, "B H W"],
    there: Bool[Tensor, "B K"],
) -> Float[Tensor, ""]:
    """Return the mean over the masks that are there of 1 - 2 sum p g / (sum p^2 + sum g^2) and binary cross-entropy.

    p is the sigmoid and g the mask; 1e-5 is added above and below. Sums are over the known pixels of one mask. Without
    a mask the loss is 0.
    """
    numbers = torch.arange(1, logits.shape[1] + 1, device=masks.device)[None, :, None, None]
    seen = known[:, None].to(logits.dtype)
    truth = (masks[:, None] == numbers).to(logits.dtype) * seen
    chance = logits.sigmoid() * seen
    both = (chance * truth).sum((2, 3))
    total = (chance**2).sum((2, 3)) + truth.sum((2, 3))
    dice = 1 - (2 * both + 1e-5) / (total + 1e-5)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * seen
    entropy = entropy.sum((2, 3)) / seen.sum((2, 3)).clamp(min=1)
    return ((dice + entropy) * there).sum() / there.sum().clamp(min=1)


def _ends(along: Bool[Tensor, "B K N"]) -> tuple[Tensor, Tensor]:
    """Return the first place that is set and the one behind the last."""
    count = along.shape[-1]
    first = along.int().argmax(-1)
    return first, count - along.flip(-1).int().argmax(-1)
