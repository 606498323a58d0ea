"""Writing local files: whole or not at all, and on conditions."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medalign.errors import ConflictError
from medalign.storage.version import Version


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Write aside; the file gets its name when the block ends without an exception."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    aside = Path(f"{path}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(aside, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: str) -> Version:
    """Return a file with its version; its age is by the clock of the filesystem, which may be another machine's.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        data = stream.read()
        written = os.fstat(stream.fileno()).st_mtime
    with _guard(path) as guard:
        os.utime(guard)
        now = os.fstat(guard).st_mtime
    return Version(data=data, tag=_tag(data), age=now - written)


def put(path: str, data: bytes, *, is_new: bool = False, tag: str | None = None) -> str:
    """Write a file on condition that it is new, or still of one version; return its version's tag.

    Raises:
        ConflictError: the condition does not hold.
        OSError: it cannot be written.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _guard(path):
        have = _tag(Path(path).read_bytes()) if os.path.exists(path) else None
        if (is_new and have) or (tag and have != tag):
            raise ConflictError(f"{path}: someone else has written it in the meantime; read it again.")
        with writing(path) as stream:
            stream.write(data)
    return _tag(data)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _guard(path: str) -> Iterator[int]:
    """Keep others from a conditional write; a file beside it, since the file itself is replaced."""
    folder, name = os.path.split(path)
    guard = os.open(os.path.join(folder, f".{name}.guard"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield guard
    finally:
        os.close(guard)
