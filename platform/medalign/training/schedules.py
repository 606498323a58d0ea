"""Learning-rate schedules: the factor of a step is a pure function, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warm-up, then half a cosine down to `final`.

    Attributes:
        warmup_steps: steps until the full rate.
        final: the factor at the end, in [0, 1].
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps)
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be in [0, 1], got {self.final}.")

    def factor(self, step: int, total: int) -> float:
        """Return the factor of step 0 <= step < total."""
        done = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        return _warmup(step, self.warmup_steps) * (
            self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * max(0.0, done)))
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """The rate falls by `factor_per_milestone` at each milestone.

    The defaults are four halvings at 20, 40, 60 and 80 % of the training: the reading of LVM-Med's "halved four
    times" that its matching library uses.

    Attributes:
        milestones: rising shares of the training, each in (0, 1).
        factor_per_milestone: in (0, 1).
        warmup_steps: steps of linear warm-up.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    milestones: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    factor_per_milestone: float = 0.5
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps)
        rising = list(self.milestones) == sorted(set(self.milestones))
        if not rising or not all(0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones must rise within (0, 1), got {list(self.milestones)}.")
        if not 0 < self.factor_per_milestone < 1:
            raise ValueError(f"factor_per_milestone must be in (0, 1), got {self.factor_per_milestone}.")

    def factor(self, step: int, total: int) -> float:
        """Return the factor of step 0 <= step < total."""
        passed = sum(step >= share * total for share in self.milestones)
        return _warmup(step, self.warmup_steps) * self.factor_per_milestone**passed


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The full rate after a linear warm-up of `warmup_steps`."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_steps)

    def factor(self, step: int, total: int) -> float:
        """Return the factor of step 0 <= step < total."""
        return _warmup(step, self.warmup_steps)


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _check_warmup(warmup_steps: int) -> None:
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be >= 0, got {warmup_steps}.")
