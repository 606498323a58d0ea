"""Micro-batches: rows of a window become blocks, blocks become views, views become an ImageBatch. Pure: no Ray.

Blocks are tables of exactly `micro_batch` rows; every row carries its micro-batch's place, so that whoever receives
a block can tell whether it is the one due.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from medalign.data.decode import augment, open_image
from medalign.data.order import Order, Slot, Window
from medalign.data.reader import RowSource
from medalign.data.settings import Data
from medalign.errors import OrderError
from medalign_core.types import DrawKey, ImageBatch

VIEWS = 2


@dataclass(frozen=True)
class BatchStream:
    """What turns (order, corpus, settings) into micro-batches, one small picklable value.

    Attributes:
        order: which rows, when.
        source: where they are.
        data: how they become views.
        world: the number of workers that the slots are dealt to.
    """

    order: Order
    source: RowSource
    data: Data
    world: int

    def read_window(self, window: Window) -> Iterator[pa.Table]:
        """Yield the blocks of a window's slots, in the order they are dealt."""
        rows = np.concatenate([self.order.step_rows(step) for step in range(window.start, window.stop)])
        table = self.source.take(rows)
        labels = self.source.label_index(table["label"])
        size = self.order.micro_batch
        for step in range(window.start, window.stop):
            first = (step - window.start) * self.order.global_batch
            for slot in self.order.slots(step, self.world):
                low = first + slot.index * size
                part = slice(low, low + size)
                images = [None] * size if slot.padding else table["image"][part].to_pylist()
                yield self._block(slot, images, rows[part], labels[part])

    def _block(self, slot: Slot, images: list[bytes | None], rows: np.ndarray, labels: np.ndarray) -> pa.Table:
        size = self.order.micro_batch
        missing = np.full(size, -1, dtype=np.int64)
        return pa.table(
            {
                "image": pa.array(images, pa.binary()),
                "row": missing if slot.padding else rows,
                "label": missing if slot.padding else labels,
                "step": np.full(size, slot.step, dtype=np.int64),
                "index": np.full(size, slot.index, dtype=np.int64),
                "epoch": np.full(size, self.order.epoch_of(slot.step), dtype=np.int64),
            }
        )

    def decode(self, block: pa.Table) -> dict[str, np.ndarray]:
        """Return a block's views as arrays; a row that cannot be decoded becomes a hole, the others keep their place.

        A hole carries the pixels of the block's first good row, so that batch statistics never see a blank image.
        """
        size, side = len(block), self.data.image_size
        images = np.zeros((size, VIEWS, 3, side, side), dtype=np.uint8)
        boxes = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (size, VIEWS, 1))
        flipped = np.zeros((size, VIEWS), dtype=bool)
        valid = np.zeros(size, dtype=bool)
        rows, epochs = block["row"].to_numpy(), block["epoch"].to_numpy()
        for place, data in enumerate(block["image"].to_pylist()):
            if data is None:
                continue
            try:
                image = open_image(data)
            except ValueError:
                continue
            for v in range(VIEWS):
                key = (self.order.seed, "view", int(epochs[place]), int(rows[place]), v)
                view = augment(image, side, self.data.views, key=key)
                images[place, v], boxes[place, v], flipped[place, v] = view
            valid[place] = True
        if valid.any() and not valid.all():
            images[~valid] = images[np.argmax(valid)]
        places = {name: block[name].to_numpy() for name in ("row", "label", "step", "index")}
        return {"images": images, "boxes": boxes, "flipped": flipped, "valid": valid, **places}

    def batch(self, arrays: dict[str, np.ndarray], due: Slot) -> ImageBatch:
        """Return the ImageBatch of decoded arrays.

        Raises:
            OrderError: it is not the micro-batch that is due.
        """
        seen = (int(arrays["step"][0]), int(arrays["index"][0]))
        if seen != (due.step, due.index) or len(arrays["row"]) != self.order.micro_batch:
            raise OrderError(
                f"micro-batch (step {seen[0]}, index {seen[1]}) arrived where (step {due.step}, index {due.index})"
                f" is due, with {len(arrays['row'])} rows."
            )
        return ImageBatch(
            images=torch.from_numpy(np.array(arrays["images"])),
            boxes=torch.from_numpy(np.array(arrays["boxes"], dtype=np.float32)),
            flipped=torch.from_numpy(np.array(arrays["flipped"])),
            valid=torch.from_numpy(np.array(arrays["valid"])),
            labels=torch.from_numpy(np.array(arrays["label"])),
            ids=torch.from_numpy(np.array(arrays["row"])),
            key=DrawKey(self.order.seed, due.step, due.index),
            weight=0.0 if due.padding else 1.0,
        )

    def due(self, rank: int, *, start: int, stop: int) -> Iterator[Slot]:
        """Yield the slots of one rank for the steps [start, stop), in order."""
        for step in range(start, stop):
            yield from self.order.slots(step, self.world)[rank :: self.world]

    def plain(self, rank: int, *, start: int, stop: int) -> Iterator[ImageBatch]:
        """Yield one rank's micro-batches without Ray: the oracle of the stream, and what in-process training uses."""
        due = self.due(rank, start=start, stop=stop)
        for window in self.order.windows(start, stop):
            for q, block in enumerate(self.read_window(window)):
                if q % self.world == rank:
                    yield self.batch(self.decode(block), next(due))
