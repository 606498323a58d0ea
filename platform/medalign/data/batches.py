"""Micro-batches: rows of a window become blocks, blocks become views, views become an ImageBatch. Pure: no Ray.

Blocks are tables of exactly `micro_batch` rows; every row carries its micro-batch's place, so that whoever receives
a block can tell whether it is the one due.

torch is imported where tensors are made, not above: the processes that read and decode do without it, and start faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from medalign.data.decode import Decoder
from medalign.data.order import Order, Slot, Window
from medalign.data.quarantine import Holes
from medalign.data.reader import RowSource
from medalign.data.settings import Data
from medalign.errors import OrderError

if TYPE_CHECKING:
    from medalign_core.types import ImageBatch

Arrays = dict[str, np.ndarray]


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

    @property
    def decoder(self) -> Decoder:
        """What decodes a block: it knows neither order nor corpus, so it travels light."""
        return Decoder(seed=self.order.seed, size=self.data.image_size, views=self.data.views)

    def read_window(self, window: Window, *, together: int = 1) -> Iterator[pa.Table]:
        """Yield a window's slots in the order they are dealt, `together` a block; padding has rows -1."""
        size = self.order.micro_batch
        slots = [
            (step, slot) for step in range(window.start, window.stop) for slot in self.order.slots(step, self.world)
        ]
        places = np.concatenate([self._places(window, step, slot) for step, slot in slots])
        is_there = places >= 0
        rows, epochs = (np.where(is_there, of_window[places], -1) for of_window in self._samples(window))
        table = self.source.take(rows, ("id", "image", "label"))
        whole = pa.table(
            {
                "id": table["id"],
                "image": table["image"],
                "row": rows,
                "label": np.where(is_there, self.source.label_index(table["label"]), -1),
                "step": np.repeat([step for step, _ in slots], size),
                "index": np.repeat([slot.index for _, slot in slots], size),
                "epoch": epochs,
            }
        ).combine_chunks()
        for low in range(0, len(whole), together * size):
            yield whole.slice(low, together * size)

    def _samples(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        steps = range(window.start, window.stop)
        rows = np.concatenate([self.order.step_rows(step) for step in steps])
        return rows, np.concatenate([self.order.step_epochs(step) for step in steps])

    def _places(self, window: Window, step: int, slot: Slot) -> np.ndarray:
        """Return where a slot's rows are among its window's, -1 for padding."""
        size = self.order.micro_batch
        if slot.padding:
            return np.full(size, -1)
        first = (step - window.start) * self.order.global_batch + slot.index * size
        return np.arange(first, first + size)

    def batch(self, arrays: Arrays, due: Slot, holes: Holes | None = None) -> ImageBatch:
        """Return the ImageBatch of decoded arrays; its holes are written down first.

        Raises:
            OrderError: it is not the micro-batch that is due.
            QuarantineError: more bad rows than the budget allows.
        """
        import torch

        from medalign_core.types import DrawKey, ImageBatch

        seen = (int(arrays["step"][0]), int(arrays["index"][0]))
        if seen != (due.step, due.index) or len(arrays["row"]) != self.order.micro_batch:
            raise OrderError(
                f"micro-batch (step {seen[0]}, index {seen[1]}) arrived where (step {due.step}, index {due.index})"
                f" is due, with {len(arrays['row'])} rows."
            )
        if holes is not None and not due.padding and not arrays["valid"].all():
            holes.see(arrays, step=due.step)
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

    def plain(self, rank: int, *, start: int, stop: int, holes: Holes | None = None) -> Iterator[ImageBatch]:
        """Yield one rank's micro-batches without Ray: the oracle of the stream, and what in-process training uses."""
        due = self.due(rank, start=start, stop=stop)
        decode: Callable[[pa.Table], Arrays] = self.decoder
        for window in self.order.windows(start, stop):
            for q, block in enumerate(self.read_window(window)):
                if q % self.world == rank:
                    yield self.batch(decode(block), next(due), holes)
