"""Which checkpoints a run has: the newest, the best, which to keep, and what killed saves have left.

<run>/checkpoints/step-00000100/   model-00000-ATTEMPT.safetensors ...      weights and running statistics
                                   optimizer-00000-ATTEMPT.safetensors ...  the optimizer's tensors
                                   manifest.json                            written last: it makes the checkpoint exist
<run>/checkpoints/latest.json      names the newest, best.json the best: for people; the manifests decide
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Literal

from medalign import storage
from medalign.checkpoint import manifest
from medalign.checkpoint.manifest import Manifest, Saved
from medalign.errors import CheckpointError, RunError
from medalign.faults import fault

_NAME = re.compile(r"step-\d{8,}")


def folder_of(run: str) -> str:
    """Return where a run's checkpoints lie."""
    return storage.join(run, "checkpoints")


def uri_of(run: str, step: int) -> str:
    """Return the URI of a run's checkpoint of a step."""
    return storage.join(folder_of(run), f"step-{step:08d}")


def complete(run: str) -> list[str]:
    """Return the URIs of a run's complete checkpoints, oldest first."""
    return [uri for uri in _all(run) if manifest.exists(uri)]


def incomplete(run: str) -> list[str]:
    """Return the URIs of a run's unfinished checkpoints, oldest first: being written, or left by a killed process."""
    return [uri for uri in _all(run) if not manifest.exists(uri)]


def latest(run: str) -> Saved | None:
    """Return the newest complete checkpoint of a run, or None.

    Raises:
        CheckpointError: its manifest is damaged or of another format. An older one is never taken in silence.
    """
    for uri in reversed(_all(run)):
        if manifest.exists(uri):
            return Saved(uri, manifest.read(uri).state)
    return None


def best(run: str) -> Saved | None:
    """Return the best checkpoint by validation: the newest that set a best figure; None where none did."""
    for uri in reversed(complete(run)):
        found = manifest.read(uri)
        if found.figure is not None:
            return Saved(uri, found.state)
    return None


def chosen(run: str, checkpoint: Literal["best", "latest"]) -> Saved:
    """Return a run's best checkpoint by validation, the newest where no validation ran; or its newest.

    Raises:
        RunError: no complete checkpoint.
        CheckpointError: a manifest is damaged or of another format.
    """
    saved = (best(run) if checkpoint == "best" else None) or latest(run)
    if saved is None:
        raise RunError(f"{run}: no complete checkpoint yet; train first, or resume the run.")
    return saved


def publish(run: str, uri: str, content: Manifest) -> None:
    """Make a checkpoint exist whose files are all in place, then move the pointers."""
    fault("ckpt.before_manifest")
    manifest.write(uri, content)
    fault("ckpt.after_manifest")
    name = uri.rsplit("/", 1)[-1]
    _point(run, "latest", {"checkpoint": name})
    fault("ckpt.after_pointer")
    if content.figure is not None:
        _point(run, "best", {"checkpoint": name, "figure": content.figure})
    _delete_unlisted(uri, content)
    fault("ckpt.after_tidy")


def prune(run: str, *, keep: int, dry_run: bool = False) -> list[str]:
    """Delete all but the newest `keep` complete checkpoints and the best one; return the URIs of those deleted.

    A checkpoint's manifest goes first: what is half deleted does not exist. What killed saves have left goes too, if it
    is older than the newest complete checkpoint; a newer one may still be being written.
    """
    assert keep >= 1, "a run keeps its newest checkpoint"
    have, named = complete(run), best(run)
    doomed = [uri for uri in have[:-keep] if named is None or uri != named.uri]
    remains = [uri for uri in incomplete(run) if have and step_of(uri) < step_of(have[-1])]
    if dry_run:
        return [*remains, *doomed]
    for uri in [*remains, *doomed]:
        storage.delete_file(storage.join(uri, manifest.FILE_NAME))
        fault("ckpt.prune_unlisted")
        _delete(uri)
    return [*remains, *doomed]


def sweep(run: str) -> None:
    """Delete what killed saves have left, before a process that saves begins: nothing else is writing here."""
    for uri in incomplete(run):
        _delete(uri)
    for uri in complete(run):
        with contextlib.suppress(CheckpointError):  # one that cannot be read keeps its files; who loads it will say so
            _delete_unlisted(uri, manifest.read(uri))
    for where in storage.list_files(folder_of(run), recursive=False):
        if where.endswith(".part"):
            storage.delete_file(where)


def step_of(uri: str) -> int:
    """Return the step of a checkpoint's URI."""
    return int(uri.rstrip("/").rsplit("-", 1)[-1])


def _all(run: str) -> list[str]:
    folder = folder_of(run)
    names = [name for name in storage.list_folders(folder) if _NAME.fullmatch(name)]
    return [storage.join(folder, name) for name in sorted(names, key=step_of)]


def _point(run: str, kind: str, value: dict[str, object]) -> None:
    storage.write_bytes(storage.join(folder_of(run), f"{kind}.json"), json.dumps(value, sort_keys=True).encode())


def _delete(uri: str) -> None:
    for where in storage.list_files(uri)[:1]:
        storage.delete_file(where)
        fault("ckpt.prune_half")
    storage.delete_folder(uri)


def _delete_unlisted(uri: str, content: Manifest) -> None:
    """Delete the files of a complete checkpoint that are not its own: parts, and those of killed attempts."""
    listed = {manifest.FILE_NAME, *content.files}
    for where in storage.list_files(uri):
        if where.removeprefix(uri.rstrip("/") + "/") not in listed:
            storage.delete_file(where)
