"""What the engine holds of a model whatever the batch: weights, gradients, optimizer, buffers, by ZeRO stage.

Bytes per trained weight, whole on every worker or sharded over them, read off DeepSpeed's optimizers (0.19) and checked
against measured processes; `bench/plan_accuracy.py` measures them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

FP32, BF16 = 4, 2
BUCKET = 500_000_000  # numbers of DeepSpeed's reduce bucket
LIVE = 1_000_000_000  # numbers of weights that stage 3 holds gathered
MOMENTS: Mapping[str, int] = {"Adam": 2, "AdamW": 2, "SGD": 1, "LARS": 1}
Moment = Literal["backward", "step"]


class PerWeight(NamedTuple):
    """Bytes per trained weight: `whole` on every worker, `sharded` over all of them."""

    whole: float
    sharded: float


@dataclass(frozen=True, kw_only=True)
class Static:
    """Bytes of one worker.

    Attributes:
        weights: that the forward pass uses, frozen ones included.
        gradients: of the trained weights, with what accumulates them.
        master: fp32 copies of the weights that the optimizer changes.
        optimizer: the optimizer's own tensors.
        buffers: the engine's: reduce buckets, gathered weights.
        step: what the optimizer's step needs beside all that, while no activation is alive.
    """

    weights: int
    gradients: int
    master: int
    optimizer: int
    buffers: int
    step: int

    @property
    def resting(self) -> int:
        """Bytes beside the activations during a backward pass."""
        return self.weights + self.gradients + self.master + self.optimizer + self.buffers


def static_memory(
    *, trained: int, frozen: int, stage: int, precision: str, optimizer: str, workers: int, on_gpu: bool
) -> Static:
    """Return what one worker holds.

    Args:
        trained: weights that train.
        frozen: weights that do not.
        stage: ZeRO stage.
        precision: "fp32" or "bf16".
        optimizer: the name of its settings.
        workers: that share.
        on_gpu: buffers that a CPU's operating system would only hand out when touched are there in full.
    """
    width = BF16 if precision == "bf16" and stage else FP32
    held = 1 / workers if stage == 3 else 1
    share = trained / workers if stage else trained
    bucket = BUCKET if on_gpu else min(BUCKET, trained)
    gradients, buffers, step = _GRADIENTS[stage](trained, share, width), 0.0, 0.0
    if stage == 0:
        buffers = FP32 * min(trained, BUCKET)  # gradients are flattened before they are reduced, also by one worker
        step = FP32 * trained if on_gpu else 0  # one operation over all tensors at once keeps a result of each
    else:
        buffers = width * bucket if stage > 1 or width == BF16 else 0
        step = 2 * FP32 * share  # the flat optimizer's intermediate results
    if stage == 3:
        buffers += width * min(trained + frozen, LIVE)
    return Static(
        weights=round(width * (trained + frozen) * held),
        gradients=round(gradients),
        master=round(FP32 * share) if stage else 0,
        optimizer=round(FP32 * MOMENTS.get(optimizer, 2) * share),
        buffers=round(buffers),
        step=round(step),
    )


_GRADIENTS = {
    0: lambda trained, share, width: FP32 * trained,
    1: lambda trained, share, width: FP32 * trained + FP32 * share + (width * trained if width == BF16 else 0),
    2: lambda trained, share, width: 2 * FP32 * share,
    3: lambda trained, share, width: FP32 * share,
}
