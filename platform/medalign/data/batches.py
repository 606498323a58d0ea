"""Micro-batches: rows of a window become blocks, blocks become arrays, arrays become a batch. Pure: no Ray.

What a row is made of, views of an image or a conversation about one, is the decoder's to know.

Blocks are tables of exactly `micro_batch` rows; every row carries its micro-batch's place, so that whoever receives
a block can tell whether it is the one due.

torch is imported where tensors are made, not above: the processes that read and decode do without it, and start faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from medalign.data.decode import Decoder
from medalign.data.order import Order, Slot, Window
from medalign.data.quarantine import Holes
from medalign.data.reader import RowSource
from medalign.data.settings import Data
from medalign.errors import OrderError

if TYPE_CHECKING:
    from medalign_core.types import DrawKey

Arrays = dict[str, np.ndarray]
Batch = Any  # an ImageBatch or a ChatBatch: what the run's model reads


class BlockDecoder(Protocol):
    """What decodes a block and makes its batch: small and picklable, it knows neither order nor corpus.

    Its arrays have one entry per row, among them id, row, label, step, index, valid and reason.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The corpus's columns that are read, `id` and `label` among them."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row, about."""

    def __call__(self, block: pa.Table) -> Arrays:
        """Return a block's arrays; a row that cannot be decoded becomes a hole, the others keep their place."""

    def collate(self, arrays: Arrays, *, key: DrawKey, weight: float) -> Batch:
        """Return the batch of decoded arrays."""


@dataclass(frozen=True)
class BatchStream:
    """What turns (order, corpus, settings) into micro-batches, one small picklable value.

    Attributes:
        order: which rows, when.
        source: where they are.
        data: how they become views.
        world: the number of workers that the slots are dealt to.
        reads: what decodes them; None for views of images, as `data` has them.
    """

    order: Order
    source: RowSource
    data: Data
    world: int
    reads: BlockDecoder | None = None

    @property
    def decoder(self) -> BlockDecoder:
        """What decodes a block."""
        return self.reads or Decoder(seed=self.order.seed, size=self.data.image_size, views=self.data.views)

    def read_window(self, window: Window, *, together: int = 1) -> Iterator[pa.Table]:
        """Yield a window's slots in the order they are dealt, `together` a block; padding has rows -1."""
        size = self.order.micro_batch
        slots = [
            (step, slot) for step in range(window.start, window.stop) for slot in self.order.slots(step, self.world)
        ]
        places = np.concatenate([self._places(window, step, slot) for step, slot in slots])
        is_there = places >= 0
        rows, epochs = (np.where(is_there, of_window[places], -1) for of_window in self._samples(window))
        columns = self.decoder.columns
        table = self.source.take(rows, columns)
        whole = pa.table(
            {
                **{name: table[name] for name in columns},
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

    def batch(self, arrays: Arrays, due: Slot, holes: Holes | None = None) -> Batch:
        """Return the batch of decoded arrays; its holes are written down first.

        Raises:
            OrderError: it is not the micro-batch that is due.
            QuarantineError: more bad rows than the budget allows.
        """
        from medalign_core.types import DrawKey

        seen = (int(arrays["step"][0]), int(arrays["index"][0]))
        if seen != (due.step, due.index) or len(arrays["row"]) != self.order.micro_batch:
            raise OrderError(
                f"micro-batch (step {seen[0]}, index {seen[1]}) arrived where (step {due.step}, index {due.index})"
                f" is due, with {len(arrays['row'])} rows."
            )
        if holes is not None and not due.padding and not arrays["valid"].all():
            holes.see(arrays, step=due.step)
        key = DrawKey(self.order.seed, due.step, due.index)
        return self.decoder.collate(arrays, key=key, weight=0.0 if due.padding else 1.0)

    def due(self, rank: int, *, start: int, stop: int) -> Iterator[Slot]:
        """Yield the slots of one rank for the steps [start, stop), in order."""
        for step in range(start, stop):
            yield from self.order.slots(step, self.world)[rank :: self.world]

    def plain(self, rank: int, *, start: int, stop: int, holes: Holes | None = None) -> Iterator[Batch]:
        """Yield one rank's micro-batches without Ray: the oracle of the stream, and what in-process training uses."""
        due = self.due(rank, start=start, stop=stop)
        decode: Callable[[pa.Table], Arrays] = self.decoder
        for window in self.order.windows(start, stop):
            for q, block in enumerate(self.read_window(window)):
                if q % self.world == rank:
                    yield self.batch(decode(block), next(due), holes)
