"""How a few-shot method is trained, as its authors published it. Importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Optimizer, rate and length of a training.

    Attributes:
        optimizer: "adam", "adamw" or "sgd" (momentum 0.9).
        learning_rate: its peak; the schedule is a cosine per epoch.
        weight_decay: >= 0.
        adam_epsilon: of Adam and AdamW.
        warmup_epochs: at a constant warmup_rate.
        warmup_rate: that rate.
        epochs: pairs (shots, epochs) by rising shots; a number of shots in between takes the next larger entry, one
            above all the last; () is a method that is not trained by gradient steps.
        batch: images per step.
    """

    optimizer: str = "sgd"
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    adam_epsilon: float = 1e-8
    warmup_epochs: int = 1
    warmup_rate: float = 1e-5
    epochs: tuple[tuple[int, int], ...] = ()
    batch: int = 32

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "adamw", "sgd"):
            raise ValueError(f"optimizer must be 'adam', 'adamw' or 'sgd', got {self.optimizer!r}.")
        if not self.learning_rate > 0 or self.weight_decay < 0 or self.batch < 1:
            raise ValueError(
                "learning_rate and batch must be > 0 and weight_decay >= 0, "
                f"got {self.learning_rate}, {self.batch} and {self.weight_decay}."
            )
        shots = [pair[0] for pair in self.epochs]
        if shots != sorted(set(shots)):
            raise ValueError(f"epochs must be (shots, epochs) by rising shots, got {self.epochs}.")

    def epochs_for(self, shots: int) -> int:
        """Return the epochs at a number of shots per class, 0 where nothing is trained."""
        for at_most, epochs in self.epochs:
            if shots <= at_most:
                return epochs
        return self.epochs[-1][1] if self.epochs else 0
