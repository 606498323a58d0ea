"""The values that travel between floors: frozen dataclasses of tensors, shapes annotated."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Batch = TypeVar("Batch")


class DrawKey(NamedTuple):
    """What every random draw of a micro-batch is keyed by: never a rank, a worker or a clock.

    Attributes:
        seed: the run's seed.
        step: the optimizer step, counted from 0.
        index: the micro-batch's place within its step, in [0, global_batch / micro_batch).
    """

    seed: int
    step: int
    index: int  # type: ignore[assignment]  # the word of the platform; tuple.index is not used


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """One micro-batch: V augmented views of each of B images.

    Attributes:
        images: (B, V, 3, H, W) uint8, RGB in 0..255; normalisation is the encoder's first step.
        boxes: (B, V, 4) float32, the crop each view shows as (top, left, height, width), each in [0, 1] of the
            source image's height or width.
        flipped: (B, V) bool, True where the view is mirrored left to right after the crop.
        valid: (B,) bool, False for a hole: a row that could not be read. A hole never counts in a loss.
        labels: (B,) int64, class index, -1 where the corpus has no label.
        ids: (B,) int64, the row's number within its corpus split; -1 for a hole that fills a padding micro-batch.
        key: what random draws of this micro-batch are keyed by.
        weight: the share of this micro-batch in its step: 1, or 0 for a padding micro-batch.
        small_images: (B, Z, 3, h, w) uint8, Z smaller views of the same images; None where the recipe draws none.
        small_boxes: (B, Z, 4), their crops.
        small_flipped: (B, Z), whether they are mirrored.
    """

    images: UInt8[Tensor, "B V 3 H W"]
    boxes: Float[Tensor, "B V 4"]
    flipped: Bool[Tensor, "B V"]
    valid: Bool[Tensor, " B"]
    labels: Int[Tensor, " B"]
    ids: Int[Tensor, " B"]
    key: DrawKey
    weight: float = 1.0
    small_images: UInt8[Tensor, "B Z 3 h w"] | None = None
    small_boxes: Float[Tensor, "B Z 4"] | None = None
    small_flipped: Bool[Tensor, "B Z"] | None = None

    def to(self, device: torch.device | str) -> ImageBatch:
        """Return the same batch with every tensor on `device`."""
        return on_device(self, device)


@dataclass(frozen=True, kw_only=True)
class AnnotatedBatch:
    """One micro-batch of B images, one view each, with what an expert said of them.

    Attributes:
        images: (B, 3, H, W) uint8, RGB in 0..255; normalisation is the encoder's first step.
        labels: (B,) int64, class index, -1 where there is no label.
        masks: (B, H, W) uint8, class index of each pixel, 255 where nothing is known; (B, 0, 0) without masks.
        boxes: (B, T, 4) float32, (left, top, right, bottom) in pixels of the view; T is 0 without boxes.
        box_labels: (B, T) int64, class index of each box, -1 for a place that holds none.
        valid: (B,) bool, False for a hole: a row that could not be read. A hole never counts in a loss.
        ids: (B,) int64, the row's number within its corpus split; -1 for a hole that fills a padding micro-batch.
        key: what random draws of this micro-batch are keyed by.
        weight: the share of this micro-batch in its step: 1, or 0 for a padding micro-batch.
    """

    images: UInt8[Tensor, "B 3 H W"]
    labels: Int[Tensor, " B"]
    masks: UInt8[Tensor, "B R S"]
    boxes: Float[Tensor, "B T 4"]
    box_labels: Int[Tensor, "B T"]
    valid: Bool[Tensor, " B"]
    ids: Int[Tensor, " B"]
    key: DrawKey
    weight: float = 1.0

    def to(self, device: torch.device | str) -> AnnotatedBatch:
        """Return the same batch with every tensor on `device`."""
        return on_device(self, device)


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return a batch, a dataclass, with each of its tensors on `device`."""
    whole: Any = batch
    held = {f.name: getattr(whole, f.name) for f in fields(whole)}
    moved = {n: v.to(device, non_blocking=True) for n, v in held.items() if isinstance(v, Tensor)}
    found: Batch = replace(whole, **moved)
    return found


class ImageFeatures(NamedTuple):
    """What an image encoder returns.

    Attributes:
        map: (B, D, R, S) the last feature map, row by row from the top left.
        pooled: (B, D) its mean over the R x S cells.
    """

    map: Float[Tensor, "B D R S"]
    pooled: Float[Tensor, "B D"]
