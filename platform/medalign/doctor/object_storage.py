"""Storage: a small file written, read, compared, replaced on condition and deleted at the place that runs will use."""

from __future__ import annotations

import os
import time
import uuid

from medalign import storage
from medalign.doctor.finding import Finding, broken, fine, note
from medalign.errors import AccessError, ConflictError, MedAlignError, NotFoundError, OutageError, StorageError

SIZE = 4 << 20
SLOW = 5e6  # bytes a second
_FIXES: dict[type[MedAlignError], str] = {
    AccessError: "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and their rights to this bucket.",
    NotFoundError: "make the bucket or the folder first.",
    OutageError: "check AWS_ENDPOINT_URL, AWS_REGION and the network.",
    StorageError: "check the address and the credentials.",
}


def round_trip(uri: str) -> list[Finding]:
    """Write, read, replace on condition, and delete; a finding for the whole, and one for what is slow or missing.

    Args:
        uri: a place of runs or corpora; a folder of a random name with a file of 4 MiB is made below it and deleted.
    """
    folder = storage.join(uri, f".medalign-doctor-{uuid.uuid4().hex[:12]}")
    where = storage.join(folder, "probe")
    data = os.urandom(SIZE)
    try:
        with storage.patience(tries=4, seconds=20.0):
            seconds, found = _exchange(where, data)
    except MedAlignError as error:
        return [broken("storage", " ".join(str(error).split())[:240], _fix(error))]
    finally:
        _tidy(folder)
    rate = 2 * SIZE / max(seconds, 1e-6)
    seen = f"{uri}: written, read and deleted, {rate / 1e6:.0f} MB/s"
    if rate < SLOW and not storage.is_local(uri):
        found.append(
            note("storage speed", f"{rate / 1e6:.1f} MB/s", "train near the bucket: same region, same provider.")
        )
    return [fine("storage", seen), *found] if _is_fine(found) else found


def _exchange(where: str, data: bytes) -> tuple[float, list[Finding]]:
    since = time.perf_counter()
    storage.write_bytes(where, data)
    same = storage.read_bytes(where) == data
    seconds = time.perf_counter() - since
    if not same:
        fix = "do not use this place: what is read is not what was written."
        return seconds, [broken("storage", f"{where}: other bytes came back", fix)]
    return seconds, _conditions(where)


def _conditions(where: str) -> list[Finding]:
    """Check that a second writer is refused: locks and checkpoints rest on it."""
    if where.startswith("gs://"):
        return [note("storage locks", "gs:// has no conditional writes here", "let no two runs share a run.uri.")]
    try:
        storage.write_new(where, b"second")
    except ConflictError:
        return []
    fix = "use a store that honours If-None-Match, as S3 does: without it two runs at one URI destroy each other."
    return [broken("storage locks", f"{where}: a file that is there was written over", fix)]


def _is_fine(found: list[Finding]) -> bool:
    return all(each.state != "broken" for each in found)


def _fix(error: MedAlignError) -> str:
    return next((fix for kind, fix in _FIXES.items() if isinstance(error, kind)), _FIXES[StorageError])


def _tidy(folder: str) -> None:
    try:
        with storage.patience(tries=2, seconds=5.0):
            storage.delete_folder(folder)  # with what a conditional write leaves beside the file
    except MedAlignError:
        pass  # it could not be written, and that is told
