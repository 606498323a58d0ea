"""From rows of an annotated corpus to arrays: one view an image, with its label, its mask, its boxes. Pure: no Ray.

A training view is a random crop and its colours (decode.py); masks and boxes go the same way. A view to be measured on
is the whole image, resized (`fit="whole"`), or the centre square of one that is classified (`fit="centre"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy import ndarray
from PIL import Image

from medalign.data import images
from medalign.data.decode import View, augment, open_image, text_columns
from medalign.data.mask_values import IGNORED
from medalign.data.settings import Views

if TYPE_CHECKING:
    from medalign_core.types import AnnotatedBatch, DrawKey

Annotation = Literal["labels", "masks", "boxes"]


@dataclass(frozen=True, kw_only=True)
class AnnotatedDecoder:
    """Turns blocks of annotated rows into arrays, one view an image.

    Attributes:
        seed: the run's seed, which every draw is keyed by, with the row and its epoch.
        size: side of a view in pixels.
        views: how an image becomes a training view.
        annotation: what is read beside images and labels.
        classes: of the boxes: a label's index is its place here.
        most_boxes: places for boxes of an image.
        augmented: training views; else whole images as they are measured on.
    """

    seed: int
    size: int
    views: Views
    annotation: Annotation
    classes: tuple[str, ...] = ()
    most_boxes: int = 0
    augmented: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The corpus's columns that are read."""
        return ("id", "image", "label", *{"labels": (), "masks": ("mask",), "boxes": ("boxes",)}[self.annotation])

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        return (4 if self.annotation == "masks" else 3) * self.size**2

    def __call__(self, block: pa.Table) -> dict[str, ndarray]:
        """Return a block's arrays; a row that cannot be decoded becomes a hole, the others keep their place."""
        count, side = len(block), self.size
        room = side if self.annotation == "masks" else 0
        pixels = np.zeros((count, 3, side, side), dtype=np.uint8)
        masks = np.full((count, room, room), IGNORED, dtype=np.uint8)
        boxes = np.zeros((count, self.most_boxes, 4), dtype=np.float32)
        box_labels = np.full((count, self.most_boxes), -1, dtype=np.int64)
        valid, reasons = np.zeros(count, dtype=bool), [""] * count
        rows, epochs = block["row"].to_numpy(), block["epoch"].to_numpy()
        said = block[self.columns[-1]].to_pylist() if self.annotation != "labels" else [None] * count
        for place, data in enumerate(block["image"]):
            if not data.is_valid:
                reasons[place] = "" if rows[place] < 0 else "its shard is damaged"
                continue
            try:
                image = open_image(data.as_buffer())
                view = self._view(image, int(epochs[place]), int(rows[place]))
                if self.annotation == "masks":
                    masks[place] = view_mask(read_mask(said[place], image.size), view, side)
                elif self.annotation == "boxes":
                    boxes[place], box_labels[place] = self._boxes(said[place], view, image.size)
            except ValueError as error:
                reasons[place] = str(error)
                continue
            pixels[place], valid[place] = view.pixels, True
        known = {name: block[name].to_numpy() for name in ("row", "label", "step", "index")}
        found = {"images": pixels, "masks": masks, "boxes": boxes, "box_labels": box_labels, "valid": valid}
        return {**found, **known, **text_columns(id=block["id"].to_pylist(), reason=reasons)}

    def collate(self, arrays: dict[str, ndarray], *, key: DrawKey, weight: float) -> AnnotatedBatch:
        """Return the AnnotatedBatch of decoded arrays."""
        import torch

        from medalign_core.types import AnnotatedBatch

        names = {"images": "images", "labels": "label", "masks": "masks", "box_labels": "box_labels", "ids": "row"}
        tensors = {name: torch.from_numpy(np.array(arrays[key_])) for name, key_ in names.items()}
        return AnnotatedBatch(
            **tensors,
            boxes=torch.from_numpy(np.array(arrays["boxes"], dtype=np.float32)),
            valid=torch.from_numpy(np.array(arrays["valid"])),
            key=key,
            weight=weight,
        )

    def _view(self, image: Image.Image, epoch: int, row: int) -> View:
        if self.augmented:
            return augment(image, self.size, self.views, key=(self.seed, "view", epoch, row, 0))
        return plain_view(image, self.size, fit="centre" if self.annotation == "labels" else "whole")

    def _boxes(self, said: list[dict[str, Any]] | None, view: View, size: tuple[int, int]) -> tuple[ndarray, ndarray]:
        corners, labels = read_boxes(said, self.classes)
        corners, kept = view_boxes(corners, view, self.size, size)
        corners, labels = corners[kept], labels[kept]
        if len(labels) > self.most_boxes:
            raise ValueError(f"{len(labels)} boxes, more than {self.most_boxes}")
        room = self.most_boxes - len(labels)
        return np.pad(corners, ((0, room), (0, 0))), np.pad(labels, (0, room), constant_values=-1)


def plain_view(image: Image.Image, size: int, *, fit: Literal["whole", "centre"]) -> View:
    """Return the test view of an image: the whole of it, or its centre square, resized to size x size."""
    width, height = image.size
    across, down = (min(width, height),) * 2 if fit == "centre" else (width, height)
    left, top = (width - across) / 2, (height - down) / 2
    shown = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + across, top + down), reducing_gap=2.0
    )
    pixels = np.ascontiguousarray(np.asarray(shown, dtype=np.uint8).transpose(2, 0, 1))
    return View(pixels, (top / height, left / width, down / height, across / width), False)


def read_mask(data: bytes | None, size: tuple[int, int]) -> ndarray:
    """Return an image's mask (H, W) uint8.

    Raises:
        ValueError: it has none, or one of another size.
    """
    if data is None:
        raise ValueError("no mask")
    mask = images.decode_mask(data)
    if mask.shape != size[::-1]:
        raise ValueError("a mask of another size than its image")
    return mask


def view_mask(mask: ndarray, view: View, size: int) -> ndarray:
    """Return the mask (size, size) of a view, by the nearest pixel."""
    top, left, down, across = view.box
    height, width = mask.shape
    corners = (left * width, top * height, min((left + across) * width, width), min((top + down) * height, height))
    shown = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST, box=corners))
    return shown[:, ::-1] if view.flipped else shown


def read_boxes(said: list[dict[str, Any]] | None, classes: tuple[str, ...]) -> tuple[ndarray, ndarray]:
    """Return an image's boxes (T, 4) as (left, top, right, bottom) in its pixels, and their class indices (T,).

    Raises:
        ValueError: it has no annotation, or a box of a class that is not among `classes`.
    """
    if said is None:
        raise ValueError("no boxes")
    corners = np.array([[box[n] for n in ("left", "top", "right", "bottom")] for box in said], dtype=np.float32)
    place = {name: index for index, name in enumerate(classes)}
    if unknown := {box["label"] for box in said} - place.keys():
        raise ValueError(f"a box of the class {min(unknown)!r}, which is not the run's")
    labels = np.array([place[box["label"]] for box in said], dtype=np.int64)
    return corners.reshape(-1, 4), labels


def view_boxes(corners: ndarray, view: View, size: int, whole: tuple[int, int]) -> tuple[ndarray, ndarray]:
    """Return boxes in pixels of a view, cut at its border, and which of them are there: those whose centre is.

    Args:
        corners: (T, 4) in pixels of the whole image.
        view: what is shown of it.
        size: side of the view.
        whole: (width, height) of the whole image.
    """
    top, left, down, across = view.box
    scale = np.array([size / (across * whole[0]), size / (down * whole[1])] * 2)
    moved = (corners - np.array([left * whole[0], top * whole[1]] * 2)) * scale
    if view.flipped:
        moved = np.stack([size - moved[:, 2], moved[:, 1], size - moved[:, 0], moved[:, 3]], axis=1)
    centres = (moved[:, :2] + moved[:, 2:]) / 2
    kept = ((centres > 0) & (centres < size)).all(1)
    cut = moved.clip(0, size).astype(np.float32)
    return cut, kept & (cut[:, 2] - cut[:, 0] >= 1) & (cut[:, 3] - cut[:, 1] >= 1)
