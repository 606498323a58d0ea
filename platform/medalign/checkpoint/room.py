"""Room on disk: how many bytes a run's checkpoints need, whether they are there, and what to say when they are not."""

from __future__ import annotations

import contextlib
import errno
import resource
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from medalign import storage
from medalign.checkpoint.layout import FilePlan, plan_files
from medalign.checkpoint.source import TensorSource
from medalign.errors import DiskFullError, MedAlignError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNITS = ("B", "KB", "MB", "GB", "TB")


def planned_files(source: TensorSource) -> list[FilePlan]:
    """Return the files of a checkpoint after the first step; not what the optimizer keeps if that is not known yet."""
    buffers = {name: tuple(value.shape) for name, value in source.buffers().items()}
    keys = source.optimizer_keys() or source.planned_keys()
    return plan_files(source.shapes(), keys=keys, buffers=buffers, world=source.world, attempt="0" * 8)


def require(where: str, files: Iterable[FilePlan], *, copies: int, held: int = 0) -> None:
    """Check that a local place has room for `copies` checkpoints of these files.

    Args:
        where: the folder they go to; it need not be there yet.
        files: of one checkpoint.
        copies: checkpoints that will be there at once.
        held: bytes there already that those will replace.

    Raises:
        DiskFullError: too few bytes are free, or this process may not write files that large.
    """
    files = list(files)
    largest = max((plan.bytes for plan in files), default=0)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= limit < largest:
        raise DiskFullError(
            f"{where}: a checkpoint's largest file needs {size(largest)}, and this process may write files of"
            f" {size(limit)} (ulimit -f); raise that limit."
        )
    needed, free = copies * sum(plan.bytes for plan in files) - held, free_bytes(where)
    if needed > free:
        raise DiskFullError(
            f"{where}: {copies} checkpoints of {size(sum(plan.bytes for plan in files))} need {size(needed)} more, and"
            f" {size(free)} are free; make room, lower train.keep_last, or choose another run.uri."
        )


def explain(problem: OSError | MedAlignError, *, where: str, needed: int) -> MedAlignError:
    """Return what to raise for a write that failed: a full disk has its own error, with the bytes needed and free.

    Raises:
        OSError: the problem, where it is neither ours nor about room.
    """
    for error in (problem, problem.__cause__):
        if isinstance(error, OSError) and error.errno in _FULL:
            limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
            allowed = f"this process may write files of {size(limit)}" if error.errno == errno.EFBIG else ""
            have = allowed or f"{size(free_bytes(where))} are free"
            return DiskFullError(
                f"{where}: the disk is full ({error.strerror}): this checkpoint needs {size(needed)}, and {have};"
                " make room and give the same command again. Earlier checkpoints are intact."
            )
    if isinstance(problem, MedAlignError):
        return problem
    raise problem


def free_bytes(where: str) -> int:
    """Return the bytes that are free where a local folder lies, or will lie."""
    path = Path(storage.resolve(where)[1])
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def held_bytes(where: str) -> int:
    """Return the bytes of all files under a folder."""
    return sum(storage.list_sizes(where).values())


def size(count: float) -> str:
    """Return bytes for people, the exact number behind."""
    exact, unit = int(count), 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{exact} B" if unit == 0 else f"{count:.3g} {_UNITS[unit]} ({exact} B)"


@contextlib.contextmanager
def guarded(where: str) -> Iterator[None]:
    """Turn a full disk inside the block, where only little is written, into the error that says so."""
    try:
        yield
    except (OSError, MedAlignError) as error:
        raise explain(error, where=where, needed=0) from error
