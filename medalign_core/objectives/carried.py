"""What an objective carries from step to step beside its weights: a momentum network, a queue of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Carries(Protocol):
    """A module with state that no gradient changes. It knows no rank, and yet its state is the same on every rank.

    Within a step nothing of it changes. Each training forward leaves a record; at the end of a step that was applied,
    after the weights have changed, `end_step` gets the records of all micro-batches of the step, of whichever rank, in
    the order of their index. So what it makes of them does not depend on the number of ranks.
    """

    def record(self) -> Tensor:
        """Return what the last training forward leaves for the end of the step: (n,) float32, n always the same."""

    def end_step(self, records: Tensor) -> None:
        """Change the state by the (A, n) records of a step's A micro-batches, in order."""

    def carried(self) -> dict[str, Tensor]:
        """Return the state as named float32 tensors, for checkpoints; no name is that of a trained weight."""

    def load_carried(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the state from `carried()`'s tensors."""
