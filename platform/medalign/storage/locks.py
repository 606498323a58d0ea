"""Locks: one owner of a URI, on file:// and s3://; a dead owner's lock is recognised and taken over.

The lock is a small JSON file that names its owner. It is made by a conditional write, of which one succeeds, and
touched every 10 s by another. An owner on this machine is dead when its process is; one elsewhere when it has not
touched the lock for a minute, by the clock of the store.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medalign.errors import ConflictError, NotFoundError, RunLockedError, StorageError
from medalign.storage.files import delete_file, read_version, replace_version, write_new
from medalign.storage.retries import patience
from medalign.storage.uris import absolute, join, split

BEAT_S = 10.0
DEAD_AFTER_S = 60.0
QUICKLY = {"tries": 4, "seconds": 15.0, "try_seconds": 5.0}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a lock.

    Attributes:
        token: differs for every lock ever taken.
        host: the machine's name.
        pid: its process there.
        since: when it took the lock, ISO 8601 in UTC.
        machine: which running system the pid belongs to: a restart or another container gives another one.
        process: when the process started there, since numbers are used again.
    """

    token: str
    host: str
    pid: int
    since: str
    machine: str
    process: str

    @classmethod
    def of_this_process(cls) -> Owner:
        """Name this process."""
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=_machine(),
            process=_started(os.getpid()),
        )

    def is_dead(self, age: float) -> bool:
        """Tell whether the owner is gone, `age` seconds after it last touched its lock."""
        if self.machine and self.machine == _machine():
            return _started(self.pid) != self.process
        return age > DEAD_AFTER_S

    def dumps(self, beat: int) -> bytes:
        """Return the lock's content."""
        return json.dumps({**asdict(self), "beat": beat}, indent=1).encode()

    @classmethod
    def loads(cls, data: bytes) -> Owner:
        """Read a lock's content.

        Raises:
            ValueError: it is none.
        """
        try:
            found = json.loads(data)
            return cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a lock: {error}") from error


def of_run(run: str) -> str:
    """Return the URI of a run's lock."""
    return join(absolute(run), "run.lock")


def interrupt() -> None:
    """Do to the main thread what Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextlib.contextmanager
def hold(uri: str, *, of: str, on_lost: Callable[[], None] = interrupt) -> Iterator[Owner]:
    """Hold a lock for as long as the block runs.

    Args:
        uri: the lock's own file.
        of: what it locks, for messages: a run's URI.
        on_lost: called from another thread when the lock is taken away, which only happens to an owner that could not
            touch it for a minute; by default it interrupts the main thread, and `hold` explains the interruption.

    Raises:
        RunLockedError: another holds it; or it was taken away.
        StorageError: the place cannot be reached.
    """
    if split(uri)[0] == "gs":
        _log.warning("%s: gs:// has no locks: make sure yourself that no second run uses it.", of)
        yield Owner.of_this_process()
        return
    owner, tag = _take(uri, of)
    heart = _Heart(uri, owner, tag, on_lost)
    try:
        yield owner
    except KeyboardInterrupt:
        if heart.thief is None:
            raise
        raise RunLockedError(f"{of}: lost to another run: {heart.thief}; this one stopped.") from None
    finally:
        heart.stop()
        if heart.thief is None:
            _release(uri, owner)


def check(uri: str, *, of: str) -> None:
    """Refuse where a living owner holds a lock; takes and writes nothing.

    Raises:
        RunLockedError: another holds it.
        StorageError: the place cannot be reached.
    """
    if split(uri)[0] != "gs":
        with patience(**QUICKLY):
            _dead(uri, of)


def _take(uri: str, of: str) -> tuple[Owner, str]:
    """Make the lock, or take a dead owner's over."""
    owner = Owner.of_this_process()
    with patience(**QUICKLY):
        for _ in range(5):
            try:
                return owner, write_new(uri, owner.dumps(0))
            except ConflictError:
                found = _dead(uri, of)
            if found:
                with contextlib.suppress(ConflictError):
                    tag = replace_version(uri, owner.dumps(0), found[1])
                    _log.warning(
                        "%s: taken over from process %d on %s, which is dead.", of, found[0].pid, found[0].host
                    )
                    return owner, tag
    raise RunLockedError(f"{of}: several runs start here at once; start one of them again.")


def _dead(uri: str, of: str) -> tuple[Owner, str] | None:
    """Return a dead owner and the version of its lock, None where there is no lock; refuse where the owner lives."""
    try:
        found = read_version(uri)
    except NotFoundError:
        return None
    try:
        owner = Owner.loads(found.data)
    except ValueError:
        raise RunLockedError(f"{uri}: not a lock that this program has written; look at it, then delete it.") from None
    if not owner.is_dead(found.age):
        raise RunLockedError(
            f"{of}: another run is at work here: process {owner.pid} on {owner.host}, since {owner.since}, last seen"
            f" {max(found.age, 0):.0f} s ago; wait for its end or stop it, or choose another run.uri."
        )
    return owner, found.tag


def _release(uri: str, owner: Owner) -> None:
    with contextlib.suppress(StorageError, ValueError), patience(**QUICKLY):
        if Owner.loads(read_version(uri).data).token == owner.token:
            delete_file(uri)
            return
    _log.info("%s: not there any more when it was to be released", uri)


class _Heart:
    """Touches a lock from a thread of its own."""

    def __init__(self, uri: str, owner: Owner, tag: str, on_lost: Callable[[], None]) -> None:
        self._uri, self._owner, self._tag, self._on_lost = uri, owner, tag, on_lost
        self._stop = threading.Event()
        self.thief: str | None = None
        self._thread = threading.Thread(target=self._beat, name="medalign-lock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_S):
            beat += 1
            try:
                with patience(tries=4, seconds=20.0, try_seconds=10.0):
                    self._tag = replace_version(self._uri, self._owner.dumps(beat), self._tag)
            except ConflictError:
                if (thief := self._thief()) is not None:
                    self.thief = thief
                    self._on_lost()
                    return
            except StorageError as error:
                _log.warning("the lock cannot be touched now: %s", error)

    def _thief(self) -> str | None:
        """Return who has the lock now; None where it is still ours, in a version whose answer was lost."""
        try:
            found = read_version(self._uri)
            owner = Owner.loads(found.data)
        except NotFoundError:
            return "someone has deleted the lock"
        except (StorageError, ValueError) as error:
            return str(error)
        if owner.token == self._owner.token:
            self._tag = found.tag
            return None
        return f"process {owner.pid} on {owner.host}, since {owner.since}"


def _machine() -> str:
    """Return what tells running systems apart, and containers in them; "" where there is no such thing."""
    parts: list[Any] = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""
    return " ".join(parts)


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the system did; "" where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
