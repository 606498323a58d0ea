"""A trial in a thread of its own, and what is said between it and Tune: reports one way, go on or stop the other."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from medalign.errors import MedAlignError, WorkerError

LOOK_EVERY_S = 1.0
TRACE = 4000  # characters of a traceback that are kept, its end


class Talk(Protocol):
    """What a trial reports through."""

    def __call__(self, step: int, values: Mapping[str, float], *, total: int, worked: int) -> bool:
        """Report figures after `step` of `total` steps, `worked` of them in this attempt; tell whether to go on."""


class Work(Protocol):
    """What every trial of a sweep does; shared by all, so that what is computed once is computed once."""

    def run(self, number: int, point: Mapping[str, Any], talk: Talk) -> None:
        """Run a trial from its point to its end, or until a report is answered with stop."""


class Exchange:
    """One trial at work. `next` gives its reports one by one; the last one has `done`."""

    def __init__(self, work: Work, number: int, point: Mapping[str, Any]) -> None:
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self._is_waiting = False
        self._is_stopped = False
        self._last: dict[str, Any] = {}
        self._began = time.perf_counter()
        self._thread = threading.Thread(
            target=self._run, args=(lambda: work.run(number, point, self._report),), name="medalign-trial", daemon=True
        )
        self._thread.start()

    def next(self) -> dict[str, Any]:
        """Let the trial go on and return what it says next."""
        if self._is_waiting:
            self._is_waiting = False
            self._answers.put(True)
        while True:
            try:
                said = self._said.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                if self._thread.is_alive():
                    continue
                raise RuntimeError("the trial's thread ended without a word.") from None
            self._is_waiting = not said.get("done")
            return said

    def stop(self, seconds: float) -> bool:
        """Tell the trial to end and wait for it; tell whether it did."""
        self._is_stopped = True
        self._answers.put(False)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _report(self, step: int, values: Mapping[str, float], *, total: int, worked: int) -> bool:
        if self._is_stopped:
            return False
        plain = {name: float(value) for name, value in values.items()}
        self._last = {"step": step, "total": total, "worked": worked, "values": plain}
        self._said.put({**self._last, "seconds": self._seconds()})
        return self._answers.get()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
            end: dict[str, Any] = {"finished": True}
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this trial's and the sweep goes on
            end = {"failure": _reason(error), "trace": _trace(error)}
        self._said.put({**self._last, **end, "seconds": self._seconds(), "done": True})

    def _seconds(self) -> float:
        return time.perf_counter() - self._began


def _reason(error: BaseException) -> str:
    """Name an exception in one line; ours say all themselves."""
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, MedAlignError) else f"{type(error).__name__}: {text}"


def _trace(error: BaseException) -> str:
    own = error.trace if isinstance(error, WorkerError) else ""
    return (own or "".join(traceback.format_exception(error)))[-TRACE:]
