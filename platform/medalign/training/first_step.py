"""What the first step says of an alignment: that it has nothing to teach, or that there is nothing to align."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medalign.tracking.events import INERT, NOTHING_ALIGNED
from medalign.training.averages import Averages

ACCURACY, ALIGNED = "matching_accuracy", "aligned_samples"


class FirstStep:
    """Judges the figures of a run's first step.

    Args:
        device: where the figures are.
        inert_accuracy: above it the truth is found without learning; None judges nothing.
    """

    def __init__(self, device: torch.device, inert_accuracy: float | None) -> None:
        self._limit = inert_accuracy
        self._figures = Averages(device)

    def see(self, weight: float, stats: Mapping[str, Tensor]) -> None:
        """Take one micro-batch's figures, weight 0 for padding."""
        if self._limit is not None:
            self._figures.add(weight, {name: stats[name] for name in (ACCURACY, ALIGNED) if name in stats})

    def judge(self) -> dict[str, float]:
        """Return what is to be told, each an event with its figure. Collective."""
        if self._limit is None:
            return {}
        self._figures.commit()
        means = self._figures.reduce()
        if means.get(ALIGNED) == 0:
            return {NOTHING_ALIGNED: 0.0}
        accuracy = means.get(ACCURACY, 0.0)
        return {INERT: accuracy} if accuracy > self._limit else {}
