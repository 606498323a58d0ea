"""What fits a GPU: for each ZeRO stage the largest micro-batch, and the smallest stage for the recipe's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medalign.plan.gpus import Gpu
from medalign.plan.memory import MemoryModel

HEADROOM = 0.05  # of the GPU that is left free: peaks that no plan foresees
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One ZeRO stage on one kind of GPU.

    Attributes:
        stage: the ZeRO stage.
        peak: bytes of a worker with the recipe's own micro-batch.
        fits: whether that is there.
        largest: the largest micro-batch that fits, and that the recipe's objective and global batch allow; None if
            none does.
    """

    stage: int
    peak: int
    fits: bool
    largest: int | None


@dataclass(frozen=True, kw_only=True)
class Fits:
    """What fits a GPU.

    Attributes:
        gpu: its name.
        memory: bytes that can be used, headroom taken off.
        stages: each stage.
        smallest_stage: the smallest that holds the recipe's micro-batch; None if none does.
        own: whether the recipe as it stands fits.
    """

    gpu: str
    memory: int
    stages: tuple[Fit, ...]
    smallest_stage: int | None
    own: bool


def fit(
    model: MemoryModel, gpu: Gpu, *, micro_batch: int, stage: int, global_batch: int, workers: int,
    accepts: Callable[[int], bool],
) -> Fits | None:  # fmt: skip
    """Return what fits a GPU, None where a pass could not be rehearsed.

    Args:
        model: of the recipe's memory.
        gpu: which.
        micro_batch: the recipe's.
        stage: the recipe's.
        global_batch: of which a micro-batch is a divisor.
        workers: that share.
        accepts: whether the objective takes a micro-batch of a size.
    """
    room = round(gpu.memory * (1 - HEADROOM))
    found = []
    for each in STAGES:
        peak = model.peak(size=micro_batch, stage=each, workers=workers)
        if peak is None:
            return None
        sizes = [
            size
            for size in _sizes(global_batch, workers)
            if accepts(size) and (model.peak(size=size, stage=each, workers=workers) or 0) <= room
        ]
        found.append(Fit(stage=each, peak=peak, fits=peak <= room, largest=max(sizes, default=None)))
    return Fits(
        gpu=gpu.name,
        memory=room,
        stages=tuple(found),
        smallest_stage=next((each.stage for each in found if each.fits), None),
        own=found[stage].fits,
    )


def _sizes(global_batch: int, workers: int) -> Iterator[int]:
    """Yield the micro-batches that divide a global batch and leave each worker one."""
    return (size for size in range(1, global_batch // workers + 1) if global_batch % size == 0)
