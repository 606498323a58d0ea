"""What the loop needs of its engine and of its surroundings; the loop itself knows neither DeepSpeed nor Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from medalign.checkpoint.source import TensorSource

Reason = Literal["asked", "preempted"]  # why a loop ends before its plan does: a signal, or a node that is taken away


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What one optimizer step did: `applied` is False when a non-finite gradient was kept out."""

    applied: bool
    gradient_norm: float


class Memory(Protocol):
    """What a module remembers from step to step beside its weights; see step_memory.py."""

    def record(self, index: int) -> None:
        """Keep what the forward of micro-batch `index` left."""

    def combine(self, micro_batches: int) -> None:
        """End a step that was applied: fold in what all ranks recorded. Collective."""

    def discard(self) -> None:
        """Forget what was recorded."""


class TrainingEngine(TensorSource, Protocol):
    """A module that trains, on one of `world` ranks."""

    module: nn.Module
    device: torch.device

    @property
    def running(self) -> Memory:
        """The running statistics of the module's batch norms, and what the module carries."""

    def forward(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return (loss, stats) of one micro-batch."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch to the step's."""

    def step(self, learning_rate: float) -> StepOutcome:
        """Take the optimizer step."""


class Session(Protocol):
    """What the loop knows of its surroundings."""

    rank: int
    world: int

    def report(self, step: int, values: dict[str, float]) -> None:
        """Tell the surroundings that a checkpoint of `step` is complete. Every rank calls it equally often."""

    def stop_requested(self) -> bool:
        """Tell whether this rank has a reason to save and end, or wants to ask for one. Before every step: cheap."""

    def stop_reason(self, any_rank: Callable[[bool], bool]) -> Reason | None:
        """Agree why to save and end, None to go on. Collective: called on all ranks where one `stop_requested`."""
