"""What a sweep returns, and what is known of each of its trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["completed", "stopped", "failed"]
TERMINAL: tuple[State, ...] = ("completed", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial reported: the figures after a number of steps, and the seconds it had worked until then."""

    step: int
    values: dict[str, float]
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as the ledger has it.

    Attributes:
        number: its id in the sweep, from 0.
        point: dotted key -> value, as it was sampled.
        state: how it ended; None while it has not.
        reason: why it failed or was stopped.
        reports: the last attempt's reports, by rising step.
        values: the figures it is judged by; {} where it failed before any.
        steps: taken by all attempts together.
        total_steps: that it would have taken to the end; 0 if it never said.
        seconds: worked, all attempts.
        attempts: how often it was started.
    """

    number: int
    point: dict[str, Any]
    state: State | None = None
    reason: str = ""
    reports: tuple[Report, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        uri: where it lives.
        metric: what names the best.
        trials: all of them.
        best: the best completed trial's number; None where none completed.
        value: its figure.
        front: numbers of the Pareto front where there are several metrics.
        notes: what a user should know.
    """

    uri: str
    metric: str
    trials: tuple[TrialRecord, ...]
    best: int | None
    value: float | None
    front: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def counted(self) -> dict[str, int]:
        """Return how many trials ended in each state."""
        return {state: sum(trial.state == state for trial in self.trials) for state in TERMINAL}
