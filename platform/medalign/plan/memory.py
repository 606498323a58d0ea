"""Memory of one worker by part: what is there at rest, what a micro-batch adds, and the peak of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medalign.plan.rehearsal import Rehearsed
from medalign.plan.static_memory import Static, static_memory

GPU_RUNTIME = 1_200_000_000  # the CUDA context with its kernels, cuBLAS and NCCL; an allowance, not measured here
CPU_RUNTIME = 720_000_000  # Python, PyTorch, transformers, DeepSpeed and pyarrow imported, one tiny run; measured
# Of what a micro-batch holds, what the allocator cannot give out again. On GPUs an allowance for the caching allocator,
# not measured. On CPUs none: glibc keeps freed blocks as well, up to half as much again (see docs/plan.md).
FRAGMENTS = {"cpu": 0.0, "gpu": 0.05}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one worker.

    Attributes:
        weights, gradients, master, optimizer, buffers: as of Static.
        saved: activations kept for the backward pass; with `activation_checkpointing` as the recipe has it.
        saved_otherwise: with it switched the other way; None where the model has no such switch.
        working: what a forward and backward pass hold at their peak, `saved` included.
        logits: of the working memory, the logits of a chunk of targets with their gradient; None without words.
        graph_network: of the static memory, what the graph network takes; None without one.
        batch: the micro-batch on the device.
        runtime: of the process itself.
        solver: on the host: the matching problems of a micro-batch.
        peak: the most that is held at once; None where the micro-batch could not be rehearsed.
    """

    weights: int
    gradients: int
    master: int
    optimizer: int
    buffers: int
    saved: int | None
    saved_otherwise: int | None
    working: int | None
    logits: int | None
    graph_network: int | None
    batch: int
    runtime: int
    solver: int
    peak: int | None


class MemoryModel:
    """Predicts the memory of a worker for any ZeRO stage and micro-batch of a recipe.

    A pass is rehearsed at two micro-batches; in between and beyond its memory is a straight line.

    Args:
        trained: weights that train.
        frozen: weights that do not.
        precision: of the engine.
        optimizer: the name of its settings.
        on_gpu: whether training is on GPUs.
        passes: (micro-batch, what it needs) of one or two rehearsals; empty where there was none.
        batch_bytes: from a micro-batch's size to its bytes on the device.
    """

    def __init__(
        self,
        *,
        trained: int,
        frozen: int,
        precision: str,
        optimizer: str,
        on_gpu: bool,
        passes: list[tuple[int, Rehearsed]],
        batch_bytes: Callable[[int], int],
    ) -> None:
        self._static: dict[str, Any] = {
            "trained": trained,
            "frozen": frozen,
            "precision": precision,
            "optimizer": optimizer,
            "on_gpu": on_gpu,
        }
        self._passes, self._batch_bytes = passes, batch_bytes
        self._fragments = FRAGMENTS["gpu" if on_gpu else "cpu"]
        self.runtime = GPU_RUNTIME if on_gpu else CPU_RUNTIME

    def static(self, *, stage: int, workers: int) -> Static:
        """Return what is there whatever the batch."""
        return static_memory(**self._static, stage=stage, workers=workers)

    def working(self, size: int) -> int | None:
        """Return the bytes of a pass over a micro-batch of `size` rows."""
        if not self._passes:
            return None
        (first, one), (last, two) = self._passes[0], self._passes[-1]
        slope = (two.peak - one.peak) / (last - first) if last != first else one.peak / first
        return round(max(one.peak + slope * (size - first), 0))

    def batch(self, size: int) -> int:
        """Return the bytes of a micro-batch on the device."""
        return self._batch_bytes(size)

    def peak(self, *, size: int, stage: int, workers: int) -> int | None:
        """Return the most that one worker holds at once: in a backward pass, or in the optimizer's step."""
        working = self.working(size)
        if working is None:
            return None
        static = self.static(stage=stage, workers=workers)
        backward = working * (1 + self._fragments) + self.batch(size)
        return round(self.runtime + static.resting + max(backward, static.step))
