"""Patience: every call to an object store has a limit, is tried again with jitter, and ends by a deadline."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from medalign.storage import failures
from medalign.storage.failures import Kind

T = TypeVar("T")
_log = logging.getLogger(__name__)
_jitter = random.Random()  # from the system's entropy: the ranks of a run must not come back in step
_hurry: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
    "medalign_storage_patience", default=None
)
FIRST_WAIT_S, WAIT_GROWTH, LONGEST_WAIT_S = 0.01, 5.0, 40.0
LAST_TRY = (0.6, 0.75)  # when the last try is made, as a share of the deadline
NOTICEABLE_S = 5.0
MISSING_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an operation is tried.

    Attributes:
        tries: most tries.
        seconds: the deadline of the whole operation, waits included.
        try_seconds: the limit of one try: one request and its answer.
    """

    tries: int = 8
    seconds: float = 120.0
    try_seconds: float = 30.0


REQUEST = Patience()
UPLOAD_PART = Patience(seconds=300.0, try_seconds=300.0)


@dataclass
class Counts:
    """What this process has asked of object stores: operations, and the tries that had to be made again."""

    operations: int = 0
    retries: int = 0
    failures: int = 0


counts = Counts()
_counting = threading.Lock()


@contextlib.contextmanager
def patience(**changes: float) -> Iterator[None]:
    """Change fields of `Patience` for the calls of this block, e.g. `patience(tries=3, seconds=10)` at the start."""
    token = _hurry.set({**(_hurry.get() or {}), **changes})
    try:
        yield
    finally:
        _hurry.reset(token)


def attempt(
    operation: Callable[[], T],
    *,
    uri: str,
    limits: Patience = REQUEST,
    renew: Callable[[], str] | None = None,
    is_there: bool = False,
) -> T:
    """Call until it succeeds, fails for good, or the deadline is there; waits have full jitter.

    The first waits are short, and longer where the store asks for that; the last try is made late, at 60-75 % of the
    deadline, so that an outage of half the deadline is survived. Refused credentials are read anew, once.

    Args:
        operation: one request, safe to make twice.
        uri: what it is about, for messages.
        limits: its patience, which `patience` may have changed.
        renew: reads the credentials anew, and says whose they are.
        is_there: the object must exist: an answer that it does not is asked for again.

    Raises:
        StorageError: of the class that says why, naming the URI and the way out.
    """
    limits = _changed(limits)
    began = time.monotonic()
    identity, number = "", 0
    _count(operations=1)
    while True:
        number += 1
        left = limits.seconds - (time.monotonic() - began)
        try:
            result = within(min(limits.try_seconds, left), operation)
        except failures.caught() as error:
            kind = failures.kind_of(error)
            left = limits.seconds - (time.monotonic() - began)
            if kind is Kind.DENIED and renew is not None and not identity:
                identity, wait = renew(), 0.0
            elif kind is Kind.TRANSIENT or (kind is Kind.MISSING and is_there and number < MISSING_TRIES):
                wait = _wait(number, limits, left=left, is_throttled=failures.is_throttled(error))
            else:
                left = 0.0
            if number >= limits.tries or left <= 0:
                _count(failures=1)
                spent = time.monotonic() - began
                raise failures.explain(error, uri=uri, tries=number, seconds=spent, identity=identity) from error
            _note(uri, number, limits, error=error, wait=wait)
            time.sleep(wait)
        else:
            if number > 1:
                _log.info("%s: done at try %d, after %.1f s", uri, number, time.monotonic() - began)
            return result


def within(seconds: float, operation: Callable[[], T]) -> T:
    """Return what the operation returns, or give it up: its thread is left behind and ends with its socket's timeout.

    Raises:
        TimeoutError: it takes longer.
        Exception: what it raises.
    """
    done = threading.Event()
    outcome: list[Any] = [None, None]

    def run() -> None:
        try:
            outcome[0] = operation()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome[1] = error
        done.set()

    threading.Thread(target=run, name="medalign-storage", daemon=True).start()
    if not done.wait(max(seconds, 0.0)):
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _changed(limits: Patience) -> Patience:
    changes = _hurry.get()
    return replace(limits, **changes) if changes else limits


def _count(**more: int) -> None:
    with _counting:
        for name, number in more.items():
            setattr(counts, name, getattr(counts, name) + number)


def _wait(number: int, limits: Patience, *, left: float, is_throttled: bool) -> float:
    """Return how long to wait after a try, always less than what is left."""
    bound = min(LONGEST_WAIT_S, FIRST_WAIT_S * WAIT_GROWTH ** (number - 1 + is_throttled))
    wait = _jitter.uniform(0, bound)
    if wait >= left:
        wait = _jitter.uniform(0, max(left, 0) / 4)
    if number < limits.tries - 1:
        return wait
    return max(wait, left - limits.seconds * (1 - _jitter.uniform(*LAST_TRY)))


def _note(uri: str, number: int, limits: Patience, *, error: BaseException, wait: float) -> None:
    _count(retries=1)
    level = logging.WARNING if wait >= NOTICEABLE_S else logging.INFO
    cause = failures.summary(error)
    _log.log(level, "%s: try %d of %d failed (%s); the next in %.1f s", uri, number, limits.tries, cause, wait)
