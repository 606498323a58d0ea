"""status(run): how far a run is, who works on it, what it has kept and what went wrong; nothing is started or asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import yaml

from medalign import checkpoint, storage
from medalign.checkpoint import catalogue
from medalign.errors import MedAlignError, NotFoundError, RunError
from medalign.storage import locks
from medalign.storage.locks import Owner
from medalign.tracking.attempts import FINISHED, RUNNING, Attempt, read_attempts
from medalign.tracking.json_lines import read_lines

RECIPE, QUARANTINE = "recipe.yaml", "quarantine.jsonl"
LOOKED_BACK = 20  # lines of metrics that the speed is taken from
State = Literal["claimed", "running", "finished", "stopped", "failed", "died"]


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run as its files tell.

    Attributes:
        uri: of the run.
        state: "running" while a living process holds its lock; "finished" with all steps done; "stopped" by a signal
            or preempted; "failed" by an error; "died" without a word, as by kill -9; "claimed" before its first step.
        step: optimizer steps that its newest line of metrics, or its newest checkpoint, has.
        total_steps: of the run, None where nothing says so yet.
        seconds_per_step: of the last lines of metrics, None with fewer than two.
        eta_seconds: until the end at that speed; None unless it runs.
        checkpoint: the newest complete one's name, None without.
        checkpoint_step: its step.
        owner: who holds the lock, alive or not: host, pid, since; None without a lock.
        last_seen: seconds since the owner touched it.
        attempts: starts of workers.
        failures: attempts that ended by an error or without a word; `errors` names the kinds of errors.
        errors: see `failures`.
        quarantined: rows that could not be read.
        figures: of the newest line of training.
        notes: what could not be read.
    """

    uri: str
    state: State
    step: int
    total_steps: int | None
    seconds_per_step: float | None
    eta_seconds: float | None
    checkpoint: str | None
    checkpoint_step: int | None
    owner: dict[str, Any] | None
    last_seen: float | None
    attempts: int
    failures: int
    errors: tuple[str, ...]
    quarantined: int
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values; a number that is not finite is None."""
        found = asdict(self)
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {**found, "figures": figures}


def status(run: str) -> Status:
    """Return a run's status.

    Raises:
        RunError: no run there.
        StorageError: the place cannot be reached.
    """
    uri = storage.absolute(run)
    if not storage.exists(storage.join(uri, RECIPE)):
        raise RunError(f"{run}: no run here ({RECIPE} is missing); give the URI that `medalign train` printed.")
    notes: list[str] = []
    lines = [line for line in read_lines(uri) if line["kind"] == "train"]
    attempts = read_attempts(uri)
    saved = _newest(uri, notes)
    owner, age = _owner(uri)
    is_alive = owner is not None and age is not None and not owner.is_dead(age)
    step = max([int(line["step"]) for line in lines[-1:]] + [saved.state.step if saved else 0])
    total = _total_steps(uri, attempts, lines)
    pace = seconds_per_step(lines)
    state = _state(attempts, is_alive=is_alive, step=step, total=total)
    left = None if total is None or pace is None else max(total - step, 0) * pace
    failed = [a for a in attempts if _has_failed(a, is_last=a is attempts[-1], is_alive=is_alive)]
    return Status(
        uri=uri,
        state=state,
        step=step,
        total_steps=total,
        seconds_per_step=pace,
        eta_seconds=left if state == "running" else None,
        checkpoint=saved.name if saved else None,
        checkpoint_step=saved.state.step if saved else None,
        owner=None if owner is None else {"host": owner.host, "pid": owner.pid, "since": owner.since},
        last_seen=age,
        attempts=len(attempts),
        failures=len(failed),
        errors=tuple(dict.fromkeys(a.error for a in failed if a.error)),
        quarantined=_quarantined(uri),
        figures={n: v for n, v in lines[-1].items() if n not in ("step", "kind")} if lines else {},
        notes=tuple(notes),
    )


def seconds_per_step(lines: Sequence[dict[str, Any]]) -> float | None:
    """Return the pace of the last lines that one process wrote: its `seconds` rise from line to line."""
    recent = list(lines[-1:])
    for line in reversed(lines[-LOOKED_BACK:-1]):
        if not line.get("seconds", math.inf) < recent[0].get("seconds", -math.inf):
            break
        recent.insert(0, line)
    steps = recent[-1]["step"] - recent[0]["step"] if recent else 0
    return (recent[-1]["seconds"] - recent[0]["seconds"]) / steps if steps > 0 else None


def _state(attempts: Sequence[Attempt], *, is_alive: bool, step: int, total: int | None) -> State:
    if is_alive:
        return "running"
    last = attempts[-1].outcome if attempts else None
    if last == FINISHED or (total is not None and step >= total):
        return "finished"
    if last is None:
        return "claimed" if step == 0 else "died"
    return "died" if last == RUNNING else "failed" if last == "failed" else "stopped"


def _has_failed(attempt: Attempt, *, is_last: bool, is_alive: bool) -> bool:
    if attempt.outcome == RUNNING:
        return not (is_last and is_alive)
    return attempt.outcome == "failed"


def _total_steps(uri: str, attempts: Sequence[Attempt], lines: Sequence[dict[str, Any]]) -> int | None:
    if attempts:
        return attempts[-1].total_steps
    train = (yaml.safe_load(storage.read_bytes(storage.join(uri, RECIPE))) or {}).get("train") or {}
    if train.get("steps"):
        return int(train["steps"])
    epoch = lines[-1].get("epoch") if lines else None
    return round(train["epochs"] * lines[-1]["step"] / epoch) if epoch and train.get("epochs") else None


def _newest(uri: str, notes: list[str]) -> checkpoint.Saved | None:
    try:
        return catalogue.latest(uri)
    except MedAlignError as error:
        notes.append(str(error))
        return None


def _owner(uri: str) -> tuple[Owner | None, float | None]:
    if uri.startswith("gs://"):  # has no locks
        return None, None
    try:
        found = storage.read_version(locks.of_run(uri))
        return Owner.loads(found.data), max(found.age, 0.0)
    except (NotFoundError, ValueError):
        return None, None


def _quarantined(uri: str) -> int:
    where = storage.join(uri, QUARANTINE)
    return len(storage.read_bytes(where).splitlines()) if storage.exists(where) else 0
