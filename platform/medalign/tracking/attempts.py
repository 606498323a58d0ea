"""attempts.jsonl: when each attempt at a run began, and how it ended; what never ended was killed."""

from __future__ import annotations

import contextlib
import json
import resource
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from medalign import storage
from medalign.errors import RunError

FILE_NAME = "attempts.jsonl"
RUNNING, FINISHED, FAILED = "running", "finished", "failed"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a run's workers, as rank 0 saw it.

    Attributes:
        id: differs for every attempt.
        began: ISO 8601 in UTC.
        world: its workers.
        first_step: steps done when it began.
        total_steps: of the whole run.
        outcome: "running" until it ends; then "finished", "asked" (a signal), "preempted", or "failed".
        error: the name of the exception's class, where it failed; its words may quote data and are not kept.
        ended: ISO 8601 in UTC, "" before.
        last_step: steps done when it ended.
        seconds: from beginning to end.
        peak_bytes: the most memory that rank 0 held: of its GPU if it had one, else of its process; 0 if not known.
        device: "cuda" or "cpu".
    """

    id: str
    began: str
    world: int
    first_step: int
    total_steps: int
    outcome: str = RUNNING
    error: str = ""
    ended: str = ""
    last_step: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    device: str = "cpu"


class Recorder:
    """Takes the end of an attempt; see `recording`."""

    def __init__(self, first: Attempt) -> None:
        self.attempt, self._since = first, time.monotonic()

    def end(self, outcome: str, *, step: int, device: str) -> None:
        """Take note of how it ended; it is written when the block ends."""
        self.attempt = replace(self.attempt, outcome=outcome, last_step=step, device=device)

    def closed(self) -> Attempt:
        """Return the attempt with its time and memory."""
        return replace(
            self.attempt,
            ended=_now(),
            seconds=round(time.monotonic() - self._since, 3),
            peak_bytes=_peak(self.attempt.device),
        )


@contextlib.contextmanager
def recording(uri: str, *, world: int, step: int, total_steps: int) -> Iterator[Recorder]:
    """Write an attempt's beginning, and at the end of the block its end, also where an exception ends it.

    Raises:
        StorageError: the place cannot be written.
    """
    recorder = Recorder(
        Attempt(
            id=uuid.uuid4().hex[:12],
            began=_now(),
            world=world,
            first_step=step,
            total_steps=total_steps,
            last_step=step,
        )
    )
    _write(uri, recorder.attempt)
    try:
        yield recorder
    except BaseException as error:
        recorder.attempt = replace(recorder.attempt, outcome=FAILED, error=type(error).__name__)
        with contextlib.suppress(Exception):  # what ended the attempt matters more
            _write(uri, recorder.closed())
        raise
    _write(uri, recorder.closed())


def read_attempts(uri: str) -> list[Attempt]:
    """Return a run's attempts in the order they began; [] where there is no file.

    Raises:
        RunError: the file holds something else.
        StorageError: the place cannot be reached.
    """
    where = storage.join(uri, FILE_NAME)
    if not storage.exists(where):
        return []
    found: dict[str, Attempt] = {}
    for number, line in enumerate(storage.read_bytes(where).decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            attempt = Attempt(**json.loads(line))
        except (ValueError, TypeError):
            raise RunError(f"{where}:{number}: not an attempt; move the file away to go on.") from None
        found[attempt.id] = attempt
    return list(found.values())


def _write(uri: str, attempt: Attempt) -> None:
    """Add a line; a later one of the same attempt stands for the earlier."""
    where = storage.join(uri, FILE_NAME)
    before = storage.read_bytes(where) if storage.exists(where) else b""
    storage.write_bytes(where, before + json.dumps(asdict(attempt)).encode() + b"\n")


def _peak(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
