"""The ledger of a sweep: JSON lines in numbered files, the only truth on what was tried and how it ended.

<sweep>/ledger/000001.jsonl, ...: each file is written whole (aside, fsync, rename; on an object store as one object),
so a reader never meets half a line; a full one is never touched again. Nothing here is pickled.

    {"event": "begun", "versions": {...}}                a driver took the sweep up
    {"event": "sampled", "trial": 7, "point": {...}}     before the trial is given to Ray
    {"event": "started", "trial": 7, "attempt": 1}
    {"event": "report", "trial": 7, "attempt": 1, "step": 10, "worked": 10, "total": 50, "seconds": 2.1, "values": {}}
    {"event": "ended", "trial": 7, "state": "completed", "reason": "", "values": {...}, "seconds": 9.8}
    {"event": "note", "text": "..."}
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medalign import storage
from medalign.errors import RunError
from medalign.tune.result import TERMINAL, Report, TrialRecord

FOLDER = "ledger"
LINES_PER_FILE = 500  # a file is rewritten with every line: 100 kB at most
FLUSH_S = 1.0  # that a report may wait; everything else is written at once


class Ledger:
    """Appends to a sweep's ledger; one writer at a time, which the sweep's lock sees to."""

    def __init__(self, uri: str) -> None:
        self._folder = storage.join(uri, FOLDER)
        files = storage.list_files(self._folder, recursive=False)
        self._number = len([f for f in files if f.endswith(".jsonl")]) + 1  # a file of a former driver stays as it is
        self._lines: list[str] = []
        self._due = 0.0
        self._is_dirty = False

    def write(self, event: str, **said: Any) -> None:
        """Append an event.

        Raises:
            StorageError: the place cannot be written.
        """
        line = {"event": event, "time": round(time.time(), 3), **said}
        self._lines.append(json.dumps(_plain(line), ensure_ascii=False))
        self._is_dirty = True
        if event != "report" or time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write what has not been written."""
        if not self._is_dirty:
            return
        where = storage.join(self._folder, f"{self._number:06d}.jsonl")
        storage.write_bytes(where, "".join(f"{line}\n" for line in self._lines).encode())
        self._is_dirty, self._due = False, time.monotonic() + FLUSH_S
        if len(self._lines) >= LINES_PER_FILE:
            self._number, self._lines = self._number + 1, []


def read_events(uri: str) -> list[dict[str, Any]]:
    """Return every event of a sweep in order; [] where there is none. A null among values is NaN.

    Raises:
        RunError: a line that is none of a ledger.
        StorageError: the place cannot be read.
    """
    found = []
    for file in storage.list_files(storage.join(uri, FOLDER), recursive=False):
        if not file.endswith(".jsonl"):
            continue
        for number, line in enumerate(storage.read_bytes(file).decode("utf-8", errors="replace").splitlines(), 1):
            try:
                event = json.loads(line)
                str(event["event"])
            except (ValueError, KeyError, TypeError):
                raise RunError(f"{file}:{number}: not a line of a ledger; restore the file to go on.") from None
            found.append(event)
    return found


def trials_of(events: list[dict[str, Any]]) -> list[TrialRecord]:
    """Return the trials that events tell of, by number.

    Raises:
        RunError: the events contradict each other: a trial that ends twice, or was never sampled.
    """
    found: dict[int, TrialRecord] = {}
    attempts: dict[int, dict[int, Report]] = {}
    worked: dict[tuple[int, int], int] = {}
    spent: dict[tuple[int, int], float] = {}
    for event in events:
        if "trial" not in event:
            continue
        number, kind = int(event["trial"]), event["event"]
        if kind == "sampled":
            found[number] = TrialRecord(number=number, point=dict(event["point"]))
        elif number not in found:
            raise RunError(f"ledger: trial {number} was never sampled, but there is {kind!r} of it.")
        elif kind == "started":
            attempts[number] = {}
            found[number] = replace(found[number], attempts=found[number].attempts + 1)
        elif kind == "report":
            at = (number, found[number].attempts)
            worked[at], spent[at] = int(event["worked"]), float(event["seconds"])
            attempts.setdefault(number, {})[int(event["step"])] = _report(event)
            found[number] = replace(found[number], total_steps=int(event["total"]))
        elif kind == "ended":
            if found[number].state is not None or event["state"] not in TERMINAL:
                raise RunError(f"ledger: trial {number} ends twice, or as {event['state']!r}.")
            spent[number, found[number].attempts] = float(event["seconds"])
            found[number] = replace(
                found[number], state=event["state"], reason=event["reason"], values=_numbers(event["values"])
            )
    return [
        replace(
            trial,
            reports=tuple(sorted(attempts.get(number, {}).values(), key=lambda report: report.step)),
            steps=sum(steps for (of, _), steps in worked.items() if of == number),
            seconds=sum(seconds for (of, _), seconds in spent.items() if of == number),
        )
        for number, trial in sorted(found.items())
    ]


def _report(event: Mapping[str, Any]) -> Report:
    return Report(step=int(event["step"]), values=_numbers(event["values"]), seconds=float(event["seconds"]))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """JSON has no number that is not finite: null stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
