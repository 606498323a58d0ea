"""The machine: shared memory for Ray's object store, memory, room on disks, and threads that crowd the cores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from medalign import storage
from medalign.doctor.finding import Finding, broken, fine, note

GB = 1e9
STORE_SHARE = 0.3  # of memory: what Ray gives its object store
FEWEST_STORE = 0.3 * GB
FEWEST_FREE = 5 * GB
SHARED = Path("/dev/shm")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def shared_memory(*, size: int | None = None, wanted: float | None = None) -> Finding:
    """Check that /dev/shm holds the object store that Ray will start; else Ray puts it on a disk.

    Args:
        size: bytes of /dev/shm; asked if None.
        wanted: bytes of the object store; Ray's share of memory if None.
    """
    size = size if size is not None else (shutil.disk_usage(SHARED).total if SHARED.exists() else 0)
    wanted = STORE_SHARE * total_memory() if wanted is None else wanted
    seen = f"{size / GB:.1f} GB, Ray's object store would take {wanted / GB:.1f} GB"
    if size >= wanted:
        return fine("/dev/shm", seen)
    fix = (
        f"give the container --shm-size={wanted / GB:.0f}g (on Kubernetes an emptyDir of medium Memory at /dev/shm), or"
        f" start Ray with --object-store-memory={int(size * 0.9)}."
    )
    if size < FEWEST_STORE:
        return broken("/dev/shm", f"{seen}: the object store would lie on a disk", fix)
    return note("/dev/shm", f"{seen}: the object store would lie on a disk", fix)


def memory() -> Finding:
    """Tell the memory that this process may use, a container's limit included."""
    total = total_memory()
    seen = f"{total / GB:.1f} GB"
    if total < 4 * GB:
        return note("memory", seen, "training on Ray takes about 2.5 GB for two small workers; use workers=0, or more.")
    return fine("memory", seen)


def disk(uri: str = "", *, free: Mapping[str, int] | None = None) -> Finding:
    """Check the room where Ray keeps its session and spills, and where a local run would lie.

    Args:
        uri: of runs; only a local one is looked at.
        free: bytes by place; asked if None.
    """
    places = {tempfile.gettempdir()}
    if not uri or storage.is_local(uri):
        places.add(storage.resolve(uri or ".")[1] if uri else os.getcwd())
    free = {place: _free(place) for place in sorted(places)} if free is None else free
    seen = ", ".join(f"{count / GB:.1f} GB free at {place}" for place, count in free.items())
    low = [place for place, count in free.items() if count < FEWEST_FREE]
    if not low:
        return fine("disk", seen)
    fix = f"make room at {low[0]}, or start Ray with another --temp-dir and choose another run.uri."
    return (broken if min(free.values()) < FEWEST_FREE / 10 else note)("disk", seen, fix)


def threads(environment: Mapping[str, str] | None = None, *, cores: float | None = None) -> Finding:
    """Check that no library starts more threads than there are cores, for every one of several workers.

    Args:
        environment: variables; this process's if None.
        cores: that may be used; asked if None.
    """
    environment = os.environ if environment is None else environment
    cores = usable_cores() if cores is None else cores
    set_ = {name: environment[name] for name in THREADS if environment.get(name, "").isdecimal()}
    seen = f"{cores:g} cores, " + (", ".join(f"{n}={v}" for n, v in set_.items()) or "no thread limit set")
    many = [name for name, value in set_.items() if int(value) > cores]
    if many:
        return broken("threads", f"{seen}: more threads than cores", f"export {many[0]}=1; workers set train.threads.")
    quota = usable_cores()
    if not set_ and environment is os.environ and quota < (os.cpu_count() or 1):
        fix = f"export OMP_NUM_THREADS={max(1, int(quota))}: libraries see {os.cpu_count()} cores and crowd {quota:g}."
        return note("threads", f"{seen}, a container's limit below the machine's {os.cpu_count()}", fix)
    return fine("threads", f"{seen}; workers use train.threads")


def total_memory() -> int:
    """Return the bytes of memory, or of a container's limit if that is lower."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for place in _CGROUPS:
        if place.exists() and (text := place.read_text().strip()).isdecimal():
            return min(whole, int(text))
    return whole


def usable_cores() -> float:
    """Return the cores that this process may use: its affinity, and a container's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    if _QUOTA.exists():
        quota, _, period = _QUOTA.read_text().partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            cores = min(cores, int(quota) / int(period))
    return cores


def _free(place: str) -> int:
    path = Path(place).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
