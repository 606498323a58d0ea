"""The log of a run: attempts, steps, validations, events, rows that could not be read and changes, in one order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from medalign import storage
from medalign.errors import RunError, StorageError
from medalign.tracking.attempts import RUNNING, Attempt, read_attempts
from medalign.tracking.events import sentence
from medalign.tracking.json_lines import read_lines
from medalign.watching.status import QUARANTINE, RECIPE, status

CHANGES = "changes.jsonl"
HIDDEN = ("step", "kind", "seconds")
_BEGIN, _ROW, _LINE, _END = range(4)  # what comes first at the same step


def log_lines(run: str) -> list[str]:
    """Return everything that a run has noted, a line each, by step.

    Raises:
        RunError: no run there, or a file of it that holds something else.
        StorageError: the place cannot be reached.
    """
    if not storage.exists(storage.join(run, RECIPE)):
        raise RunError(f"{run}: no run here ({RECIPE} is missing); give the URI that `medalign train` printed.")
    keyed = [*_of_attempts(run), *_of_metrics(run), *_of_rows(run), *_of_changes(run)]
    return [line for _, _, line in sorted(keyed, key=lambda entry: entry[:2])]


def follow(run: str, *, seconds: float | None = None, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Yield a run's lines as they come, those that are there first, until nothing works on it any more.

    Args:
        run: its URI.
        seconds: between two looks; by default 1 for a local run, 10 else.
        sleep: waits.
    """
    pause = seconds or (1.0 if storage.is_local(run) else 10.0)
    seen: set[str] = set()
    is_last = False
    while True:
        try:
            is_last = status(run).state not in ("running", "claimed")
            lines = log_lines(run)
        except StorageError:  # tried again below; a store that stays away ends its own patience
            lines = []
        for line in lines:
            if line not in seen:
                seen.add(line)
                yield line
        if is_last:
            return
        sleep(pause)


def _of_attempts(run: str) -> Iterator[tuple[float, int, str]]:
    for number, attempt in enumerate(read_attempts(run), start=1):
        workers = f"{attempt.world} worker{'s' if attempt.world > 1 else ''}"
        yield (
            attempt.first_step,
            _BEGIN,
            f"{attempt.began} attempt {number} begins at step {attempt.first_step}/{attempt.total_steps}, {workers}",
        )
        if attempt.outcome != RUNNING:
            yield attempt.last_step, _END, _end_of(number, attempt)


def _end_of(number: int, attempt: Attempt) -> str:
    error = f" ({attempt.error})" if attempt.error else ""
    peak = f", peak {attempt.peak_bytes / 1e9:.2f} GB" if attempt.peak_bytes else ""
    return f"{attempt.ended} attempt {number} ends: {attempt.outcome}{error}, {attempt.seconds:.0f} s{peak}"


def _of_metrics(run: str) -> Iterator[tuple[float, int, str]]:
    for line in read_lines(run):
        step, kind = int(line["step"]), line["kind"]
        values = {name: value for name, value in line.items() if name not in HIDDEN}
        if kind == "event":
            told = [sentence(name, value) or f"{name} {value:g}" for name, value in values.items()]
            yield step, _LINE, f"step {step} warning: {' '.join(told)}"
            continue
        shown = ", ".join(f"{name} {value:.5g}" for name, value in values.items())
        yield step, _LINE, f"step {step} {kind}: {shown}"


def _of_rows(run: str) -> Iterator[tuple[float, int, str]]:
    for hole in _records(run, QUARANTINE):
        step = int(hole.get("step", 0))
        yield step, _ROW, f"step {step} row {hole.get('id')} left out: {hole.get('reason')}"


def _of_changes(run: str) -> Iterator[tuple[float, int, str]]:
    for change in _records(run, CHANGES):
        step = int(change.get("step") or 0)
        yield (
            step,
            _BEGIN,
            f"{change.get('time')} {change.get('key')} changed from {change.get('old')!r} to {change.get('new')!r}",
        )


def _records(run: str, name: str) -> Iterator[dict[str, Any]]:
    where = storage.join(run, name)
    if not storage.exists(where):
        return
    for number, line in enumerate(storage.read_bytes(where).decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise RunError(f"{where}:{number}: not a record; move the file away to go on.")
        yield record
