"""The detection module: an encoder's maps through pyramid and head, the loss of every place, and boxes of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from medalign_core.models.dense.fcos import FCOSHead, Located
from medalign_core.models.dense.pyramid import FeaturePyramid
from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.detection.assignment import Assigned, assign
from medalign_core.objectives.detection.settings import Detection
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.tuned_encoder import TunedEncoder
from medalign_core.ops.boxes import generalized_iou, suppress
from medalign_core.types import AnnotatedBatch

CANDIDATES = 1000  # (place, class) pairs of an image that are looked at, the best


class Detected(NamedTuple):
    """The boxes found in one image, best first.

    Attributes:
        boxes: (K, 4) (left, top, right, bottom) in pixels of the input.
        scores: (K,) in [0, 1].
        classes: (K,) class index.
    """

    boxes: Float[Tensor, "K 4"]
    scores: Float[Tensor, " K"]
    classes: Int[Tensor, " K"]


class DetectionModule(TunedEncoder):
    """The objective around an encoder; see Detection for its settings."""

    def __init__(self, settings: Detection, encoder: ImageEncoder) -> None:
        super().__init__(encoder, frozen=settings.frozen)
        self.settings = settings
        self._taken = min(settings.levels, len(encoder.map_channels))
        self.pyramid = FeaturePyramid(encoder.map_channels[-self._taken :], width=settings.width)
        self.head = FCOSHead(
            settings.width, classes=len(settings.classes), depth=settings.depth, levels=self._taken + 1
        )

    def forward(self, batch: AnnotatedBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return (loss, stats) of one micro-batch: class, box and centre-ness losses over the places of valid images.

        Each is divided by the number of places with an object, at least 1. Stats, detached scalars: the three losses
        class_loss, box_loss and central_loss, and mean_iou of the boxes at places with an object.
        """
        located = self._locate(batch.images[stand_ins(batch.valid)])
        with torch.autocast(device_type=located.logits.device.type, enabled=False):
            due = assign(
                located.places,
                located.strides,
                batch.boxes,
                batch.box_labels,
                centre_radius=self.settings.centre_radius,
            )
            losses, overlap = detection_losses(
                located, due, batch.valid, alpha=self.settings.focal_alpha, gamma=self.settings.focal_gamma
            )
        stats = {f"{name}_loss": value.detach() for name, value in losses.items()}
        return sum(losses.values(), torch.zeros_like(overlap)), {**stats, "mean_iou": overlap.detach()}

    @torch.no_grad()
    def detect(self, images: UInt8[Tensor, "B 3 H W"]) -> list[Detected]:
        """Return the boxes of each image: class chance times centre-ness, rooted; overlapping ones suppressed."""
        located = self._locate(images)
        scores = (located.logits.sigmoid() * located.central.sigmoid()[..., None]).sqrt()
        height, width = images.shape[-2:]
        limit = torch.tensor([width, height] * 2, device=images.device)
        boxes = torch.minimum(located.boxes.clamp(min=0), limit.to(located.sides))
        return [self._best(*each) for each in zip(boxes, scores, strict=True)]

    def _locate(self, images: Tensor) -> Located:
        with self.encoding():
            maps = self.encoder.maps(images)[-self._taken :]
        kind = next(self.pyramid.parameters()).dtype
        height, width = images.shape[-2:]
        return self.head(self.pyramid([each.to(kind) for each in maps]), (int(height), int(width)))

    def _best(self, boxes: Tensor, scores: Tensor) -> Detected:
        best, at = scores.flatten().topk(min(CANDIDATES, scores.numel()))
        at = at[best > self.settings.least_score]
        place, classes = at // scores.shape[1], at % scores.shape[1]
        taken, value = boxes[place], scores.flatten()[at]
        stays = suppress(taken, value, classes, most_iou=self.settings.most_iou)[: self.settings.most_boxes]
        return Detected(boxes=taken[stays], scores=value[stays], classes=classes[stays])


def detection_losses(
    located: Located, due: Assigned, valid: Bool[Tensor, " B"], *, alpha: float, gamma: float
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
    """Return the losses `class`, `box` and `central`, and the mean IoU of the boxes at places with an object.

    Class: focal loss -a_t (1 - p_t)^gamma log p_t (Lin et al. 2017, eq. 5), of every place and class. Box: 1 less the
    generalized IoU, weighted by the centre-ness that is due. Central: binary cross-entropy. All are sums over the valid
    images, divided by their number of places with an object (box: by the sum of its weights), at least 1.
    """
    seen = valid[:, None]
    there = (due.classes >= 0) & seen
    count = there.sum().clamp(min=1)
    truth = functional.one_hot(due.classes.clamp(min=0), located.logits.shape[-1]) * there[..., None]
    terms = focal_terms(located.logits, truth.to(located.logits.dtype), alpha=alpha, gamma=gamma)
    class_loss = (terms * seen[..., None]).sum() / count
    weights = due.central * there
    overlap = generalized_iou(located.boxes.flatten(0, 1), due.boxes.flatten(0, 1)).unflatten(0, there.shape)
    box_loss = ((1 - overlap) * weights).sum() / weights.sum().clamp(min=1)
    central = functional.binary_cross_entropy_with_logits(located.central, due.central, reduction="none")
    central_loss = (central * there).sum() / count
    mean = (overlap * there).sum() / count
    return {"class": class_loss, "box": box_loss, "central": central_loss}, mean


def focal_terms(
    logits: Float[Tensor, "*N"], truth: Float[Tensor, "*N"], *, alpha: float, gamma: float
) -> Float[Tensor, "*N"]:
    """Return -a_t (1 - p_t)^gamma log p_t of each logit (Lin et al. 2017, eq. 5); a_t is alpha where truth is 1."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    chance = logits.sigmoid()
    wrong = chance * (1 - truth) + (1 - chance) * truth
    return entropy * wrong**gamma * (alpha * truth + (1 - alpha) * (1 - truth))
