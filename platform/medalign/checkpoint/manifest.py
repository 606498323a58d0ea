"""The manifest of a checkpoint: written last, it makes the checkpoint exist, and it vouches for every byte of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medalign import storage
from medalign.checkpoint.tensor_file import FileRecord
from medalign.errors import CheckpointError, ConflictError

SCHEMA, VERSION = "medalign.checkpoint", 2
FILE_NAME = "manifest.json"
SIZE_LIMIT = 64 << 20


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that survives beside weights and optimizer. No random state: draws are keyed.

    Attributes:
        step: optimizer steps done; the next one is this step, counted from 0.
        seed: the run's seed.
        global_batch: rows per step, which with the seed fixes the order of samples.
        skipped: steps so far that were kept from the optimizer because they were not finite.
        best: the best validation figure so far, None before the first validation.
        data: what was trained on: the hash of the shards of each split that was read.
        averages: the sums of the figures since the last line of metrics, so that the next line is not of fewer steps.
    """

    step: int
    seed: int
    global_batch: int
    skipped: int = 0
    best: float | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    averages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint."""

    uri: str
    state: TrainState

    @property
    def name(self) -> str:
        """The last part of its URI."""
        return self.uri.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        state: how far training was.
        files: each file's record.
        optimizer: `keys`, the optimizer's tensors of each parameter, and `step`, its count of applied steps.
        figure: the validation figure that made this the best checkpoint of its time, None if nothing did.
        recipe: the resolved recipe.
    """

    state: TrainState
    files: dict[str, FileRecord]
    optimizer: dict[str, Any]
    figure: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """The optimizer's tensors of each parameter."""
        return self.optimizer["keys"]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(record.bytes for record in self.files.values())

    @property
    def tensors(self) -> dict[str, str]:
        """Each tensor's sha256, by name."""
        return {name: digest for record in self.files.values() for name, digest in record.tensors.items()}


def write(uri: str, manifest: Manifest) -> None:
    """Write a checkpoint's manifest, with a hash of itself; it is never written over.

    Raises:
        CheckpointError: there is another one.
    """
    body = json.loads(_dump({"schema": f"{SCHEMA}/{VERSION}", **asdict(manifest)}))  # as it will be read
    where, data = storage.join(uri, FILE_NAME), _dump({**body, "sha256": _hash(body)})
    if where.startswith("gs://"):  # which has no conditional writes here
        storage.write_bytes(where, data)
        return
    try:
        storage.write_new(where, data)
    except ConflictError as error:
        if storage.read_bytes(where) != data:  # else an earlier try had succeeded, and its answer was lost
            raise CheckpointError(
                f"{uri}: is there already, with other content; does another process train?"
            ) from error


def exists(uri: str) -> bool:
    """Tell whether a checkpoint is complete."""
    return storage.exists(storage.join(uri, FILE_NAME))


def read(uri: str) -> Manifest:
    """Read a checkpoint's manifest. Fields that this release does not know are left alone.

    Raises:
        CheckpointError: none there, not JSON, damaged, of another format, or incomplete.
    """
    where = storage.join(uri, FILE_NAME)
    if not exists(uri):
        raise CheckpointError(f"{uri}: not a complete checkpoint, it has no {FILE_NAME}.")
    data = storage.read_bytes(where)
    if len(data) > SIZE_LIMIT:
        raise CheckpointError(f"{where}: {len(data)} bytes are not a checkpoint's manifest.")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not JSON ({str(error)[:200]}).") from error
    _check_schema(where, raw)
    if raw.pop("sha256", None) != _hash(raw):
        raise CheckpointError(f"{where}: damaged, its hash is not the one that was saved.")
    return _parse(where, raw)


def _check_schema(where: str, raw: Any) -> None:
    schema = raw.get("schema") if isinstance(raw, dict) else None
    name, _, number = str(schema).partition("/")
    if name != SCHEMA or not number.isdecimal():
        raise CheckpointError(f"{where}: not a checkpoint's manifest (schema {schema!r}).")
    if int(number) > VERSION:
        raise CheckpointError(
            f"{where}: format {number} is of a newer MedAlign, this one reads {VERSION}; update MedAlign to go on."
        )
    if int(number) < VERSION:
        raise CheckpointError(
            f"{where}: format {number} has no hash of each tensor, so it cannot be trusted; this MedAlign reads"
            f" {VERSION}. Train again, or load it with the MedAlign that wrote it."
        )


def _parse(where: str, raw: dict[str, Any]) -> Manifest:
    try:
        files = {name: FileRecord(**record) for name, record in raw["files"].items()}
        if any("/" in name or name.startswith(".") for name in files):
            raise ValueError("a file outside the checkpoint")
        optimizer = {"keys": [str(key) for key in raw["optimizer"]["keys"]], "step": int(raw["optimizer"]["step"])}
        state = TrainState(**raw["state"])
        return Manifest(
            state=state, files=files, optimizer=optimizer, figure=raw.get("figure"), recipe=raw.get("recipe") or {}
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where}: the manifest has no state that can be read ({error}).") from error


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(body)).hexdigest()


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
