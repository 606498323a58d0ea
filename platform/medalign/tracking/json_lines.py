"""metrics.jsonl: one line per step, written whole and atomically, with no step twice; and following one from afar."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from medalign import storage
from medalign.errors import RunError, StorageError
from medalign.tracking import Kind, Tracker

FILE_NAME = "metrics.jsonl"
_log = logging.getLogger(__name__)


class JsonLines:
    """Keeps every line in memory and writes the file as a whole, so that a reader never sees half a line.

    A line is {"step": int, "kind": "train" | "validation" | "event", name: number, ...}; a number that is not finite
    is null, since JSON has none. `log` writes at most every `seconds`, and so seldom that writing takes at most 5 % of
    the time; if the place cannot be reached then, it warns and the next write brings everything. `flush` and `close`
    raise instead.
    """

    def __init__(self, uri: str, *, seconds: float = 2.0):
        self._file = storage.join(uri, FILE_NAME)
        self._lines: list[str] = []
        self._last_step = -1
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._is_dirty = False

    @classmethod
    def resume(cls, uri: str, step: int, *, seconds: float = 2.0) -> JsonLines:
        """Go on with a run's file after `step` done steps; lines of later steps are dropped from the file at once.

        After 0 steps nothing is kept. A file that is not there is an empty one.

        Raises:
            RunError: the file holds something else than lines of metrics.
            StorageError: the place cannot be reached.
        """
        tracker = cls(uri, seconds=seconds)
        for number, line in enumerate(_raw_lines(uri) if step else [], start=1):
            found = _parse(uri, number, line)
            if found["step"] <= step:
                tracker._lines.append(line)
                if found["kind"] == "train":
                    tracker._last_step = found["step"]
        tracker._is_dirty = True
        tracker.flush()
        return tracker

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Take a line.

        Raises:
            ValueError: a training step that is there already, or a value named step or kind.
        """
        if kind == "train":
            if step <= self._last_step:
                raise ValueError(f"training step {step} is logged already (the last was {self._last_step}).")
            self._last_step = step
        if {"step", "kind"} & set(values):
            raise ValueError("a value must not be named step or kind.")
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.append(json.dumps({"step": step, "kind": kind, **numbers}))
        self._is_dirty = True
        if time.monotonic() >= self._due:
            try:
                self.flush()
            except (OSError, StorageError) as error:
                _log.warning("metrics wait in memory until the next try: %s", error)
                self._due = time.monotonic() + 10 * self._seconds

    def flush(self) -> None:
        """Write the file, if there is anything new.

        Raises:
            StorageError: the place cannot be reached; the lines stay in memory.
        """
        if not self._is_dirty:
            return
        began = time.monotonic()
        storage.write_bytes(self._file, "".join(f"{line}\n" for line in self._lines).encode())
        self._is_dirty = False
        ended = time.monotonic()
        self._due = ended + max(self._seconds, 20 * (ended - began))

    def close(self, *, failed: bool = False) -> None:
        """Write what is left."""
        self.flush()


def read_lines(uri: str) -> list[dict[str, Any]]:
    """Return a run's lines, in the order they were logged; [] where there is no file. A null is NaN.

    Raises:
        RunError: the file holds something else than lines of metrics.
        StorageError: the place cannot be reached.
    """
    return [_parse(uri, number, line) for number, line in enumerate(_raw_lines(uri), start=1)]


@contextlib.contextmanager
def follow(uri: str, tracker: Tracker, *, seconds: float | None = None) -> Iterator[None]:
    """Give every line that a run writes from now on to a tracker, for as long as the block runs.

    So the process that a user looks at shows the progress of a run whose rank 0 works elsewhere. The tracker is only
    called from one thread of its own, and not closed. It looks every `seconds`: by default 1 for a local run, 10 else.
    """
    seconds = seconds or (1.0 if storage.is_local(uri) else 10.0)
    stop = threading.Event()
    poll = functools.partial(_poll, uri, tracker, stop, seconds=seconds, seen=len(_raw_lines(uri)))
    thread = threading.Thread(target=poll, name="medalign-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def _poll(uri: str, tracker: Tracker, stop: threading.Event, *, seconds: float, seen: int) -> None:
    is_last = False
    while not is_last:
        is_last = stop.is_set()  # one more look after the end, for the lines of the last moments
        try:
            lines = _raw_lines(uri)
            seen = min(seen, len(lines))  # a resumed run has dropped lines
            for number, line in enumerate(lines[seen:], start=seen + 1):
                values = _parse(uri, number, line)
                step, kind = values.pop("step"), values.pop("kind")
                tracker.log(step, values, kind=kind)
            seen = len(lines)
        except (OSError, StorageError, RunError) as error:
            _log.debug("progress cannot be read now: %s", error)
        stop.wait(0 if is_last else seconds)


def _raw_lines(uri: str) -> list[str]:
    where = storage.join(uri, FILE_NAME)
    if not storage.exists(where):
        return []
    return storage.read_bytes(where).decode("utf-8", errors="replace").splitlines()


def _parse(uri: str, number: int, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
        numbers = {
            name: math.nan if value is None else float(value) for name, value in values.items() if name != "kind"
        }
        return {**numbers, "step": int(values["step"]), "kind": str(values["kind"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        where = storage.join(uri, FILE_NAME)
        raise RunError(f"{where}:{number}: not a line of metrics; move the file away to go on.") from None
