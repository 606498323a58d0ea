"""Bringing checkpoints to a remote run while training goes on: a thread per rank, at most two checkpoints in flight.

A rank brings its files, then its part; rank 0 waits for all parts and writes the manifest; the others wait for that.
So on every rank an upload that is done is a checkpoint that is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from medalign import storage
from medalign.checkpoint import catalogue, manifest, staging
from medalign.checkpoint.manifest import Manifest
from medalign.errors import AccessError, CheckpointError, ConflictError, NotFoundError, StorageError
from medalign.faults import fault

T = TypeVar("T")
IN_FLIGHT = 2
PATIENCE_S = 60.0  # of one call to a store; then it is begun anew, so that the end of an outage is soon seen
PAUSES_S = (0.1, 5.0)  # between looks for what is to appear, and between tries: growing from the first to the second


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One rank's share of a checkpoint: its files in a local folder, and what the manifest will say.

    Attributes:
        run: the run's URI.
        uri: the checkpoint's.
        folder: where this rank's files lie.
        world: ranks that bring a share.
        content: the manifest, with this rank's files only.
        keep: complete checkpoints to keep afterwards; None deletes none.
    """

    run: str
    uri: str
    folder: str
    world: int
    content: Manifest
    keep: int | None

    def publish(self, records: staging.Records) -> None:
        """Make the checkpoint exist, its files in place, and prune older ones."""
        catalogue.publish(self.run, self.uri, replace(self.content, files=records))
        if self.keep is not None:
            catalogue.prune(self.run, keep=self.keep)
        fault("ckpt.after_prune")


class Uploads:
    """One rank's queue.

    Args:
        run: the run's URI.
        rank: of this process.
        attempt: the name that the ranks of this attempt share.
        deadline: seconds that one checkpoint may take.
        last_good: the URI of the newest complete checkpoint, for messages.
    """

    def __init__(self, run: str, *, rank: int, attempt: str, deadline: float, last_good: str | None) -> None:
        self._rank, self._attempt, self._deadline, self._last_good = rank, attempt, deadline, last_good
        self._places = threading.Semaphore(IN_FLIGHT)
        self._queue: queue.Queue[Upload] = queue.Queue()
        self._failure: Exception | None = None
        self._is_idle = threading.Condition()
        self._pending = 0
        self.folder = _scratch(run, rank)
        # a daemon: a process that another error ends must not wait for a store that does not answer
        threading.Thread(target=self._work, name="checkpoint-upload", daemon=True).start()

    def make_room(self, step: int) -> str:
        """Wait until fewer than two checkpoints are in flight; return the empty folder of the next one.

        Raises:
            CheckpointError: as `check`.
        """
        self.check()
        self._places.acquire()
        self.check()
        folder = Path(self.folder, f"step-{step:08d}")
        shutil.rmtree(folder, ignore_errors=True)
        return str(folder)

    def add(self, upload: Upload) -> None:
        """Queue a staged checkpoint."""
        with self._is_idle:
            self._pending += 1
        self._queue.put(upload)

    def check(self) -> None:
        """Raise what kept a checkpoint from arriving."""
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Wait until every checkpoint is complete, or the first has failed; then remove the local folder."""
        with self._is_idle:
            self._is_idle.wait_for(lambda: not self._pending or self._failure is not None)
        self.check()
        shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self, seconds: float) -> None:
        """Wait this long at most, then leave what is on its way."""
        with self._is_idle:
            self._is_idle.wait_for(lambda: not self._pending or self._failure is not None, timeout=seconds)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        while self._failure is None:
            upload = self._queue.get()
            try:
                self._bring(upload)
            except Exception as error:  # noqa: BLE001 - handed to the training thread, which raises it
                self._failure = error
            shutil.rmtree(upload.folder, ignore_errors=True)
            with self._is_idle:
                self._pending -= 1
                self._is_idle.notify_all()
            self._places.release()

    def _bring(self, upload: Upload) -> None:
        end = time.monotonic() + self._deadline
        try:
            for name in upload.content.files:
                where = storage.join(upload.uri, name)
                _persist(partial(_send, Path(upload.folder, name), where), end)
                fault("ckpt.after_upload")
            mine = upload.content.files
            _persist(lambda: staging.write_part(upload.uri, self._rank, self._attempt, mine), end)
            fault("ckpt.after_part")
            if self._rank == 0:
                records: staging.Records = {}
                for rank in range(upload.world):
                    records |= _await(partial(staging.read_part, upload.uri, rank, self._attempt), end)
                _persist(lambda: upload.publish(records), end)
            else:
                _await(lambda: manifest.exists(upload.uri) or None, end)
        except (StorageError, TimeoutError) as error:
            good = self._last_good or "none yet"
            raise CheckpointError(
                f"{upload.uri}: has not arrived (train.upload_deadline = {self._deadline:g} s): {error}"
                f" The run stops; its last good checkpoint: {good}. The same command goes on from there."
            ) from error
        self._last_good = upload.uri


def _send(file: Path, uri: str) -> None:
    """Copy a local file to its place."""
    with open(file, "rb") as source, storage.open_output(uri) as target:
        shutil.copyfileobj(source, target, 8 << 20)


def _persist(action: Callable[[], T], end: float) -> T:
    """Do it, again and again where the store does not answer, until the deadline."""
    for pause in _pauses():
        seconds = min(PATIENCE_S, max(end - time.monotonic(), 1.0))
        try:
            with storage.patience(seconds=seconds):
                return action()
        except (AccessError, ConflictError, NotFoundError):
            raise  # trying again cannot help
        except StorageError:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


def _await(look: Callable[[], T | None], end: float) -> T:
    """Look until there is something, until the deadline."""
    for pause in _pauses():
        found = _persist(look, end)
        if found is not None:
            return found
        if time.monotonic() + pause > end:
            raise TimeoutError("another rank's share is missing.")
        time.sleep(pause)
    raise AssertionError("unreachable")


def _pauses() -> Iterator[float]:
    pause, longest = PAUSES_S
    while True:
        yield pause
        pause = min(2 * pause, longest)


def _scratch(run: str, rank: int) -> str:
    """Return this process's own folder for staged checkpoints; those of the same run's dead processes go."""
    root = Path(tempfile.gettempdir())
    family = f"medalign-{hashlib.sha256(run.encode()).hexdigest()[:12]}"
    for folder in root.glob(f"{family}-*"):
        pid = folder.name.rsplit("-", 1)[-1]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    own = root / f"{family}-{rank}-{os.getpid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    return str(own)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        return True
    return False
