"""A run's folder: claimed by one recipe, resumed by the same one, and what is written there before training."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import yaml

from medalign import checkpoint, config, storage
from medalign.errors import RunError

PACKAGES = ("medalign", "torch", "ray", "deepspeed", "transformers", "numpy", "scipy", "pyarrow", "pillow")
# What may differ when a run goes on: nothing here changes which samples a step sees or what it computes with them.
FREE = (
    ("run", "uri"),
    *(("data", key) for key in ("corpus", "max_bad_share", "on_damage")),
    ("tracking",),
    *(
        ("train", key)
        for key in ("workers", "min_workers", "zero_stage", "max_failures", "cpus_per_worker", "gpus_per_worker")
    ),
    *(("train", key) for key in ("threads", "keep_last", "checkpoint_every", "on_nonfinite", "validate_every")),
    ("train", "upload_deadline"),
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is another than it was: a key of the recipe, or what the newest checkpoint was trained with."""

    key: str
    old: Any
    new: Any
    step: int | None

    def __str__(self) -> str:
        since = f"{self.key} = {_short(self.old)}, now it is {_short(self.new)}"
        return since if self.step is None else f"{since} (since step {self.step})"


def check(uri: str, recipe: Mapping[str, Any], *, contents: Mapping[str, str], allow_change: bool = False) -> bool:
    """Tell whether this recipe's run is at `uri` already (so it is resumed). Writes nothing.

    Args:
        uri: the run's.
        recipe: resolved.
        contents: the hash of each split that will be read.
        allow_change: go on whatever has changed.

    Raises:
        RunError: another recipe's run lives there, or it was trained with another seed, global batch or data; the first
            difference is named.
        CheckpointError: its newest checkpoint is damaged or of another format.
        StorageError: the place cannot be reached.
    """
    if not storage.exists(storage.join(uri, "recipe.yaml")):
        return False
    for change in () if allow_change else changes(uri, recipe, contents=contents):
        raise RunError(
            f"{uri}: this run was started with {change}; choose another run.uri, or the same value to resume,"
            " or --allow-change to go on with the new one."
        )
    return True


def changes(uri: str, recipe: Mapping[str, Any], *, contents: Mapping[str, str]) -> list[Change]:
    """Return what has changed since a run was started that its samples or its computation depend on."""
    saved = checkpoint.latest(uri)
    step = saved.state.step if saved else None
    stored = yaml.safe_load(storage.read_bytes(storage.join(uri, "recipe.yaml")))
    found = {key: Change(key=key, old=old, new=new, step=step) for key, old, new in _differences(stored, recipe)}
    for key, old, new in _other_state(saved.state, recipe, contents) if saved else ():
        found.setdefault(key, Change(key=key, old=old, new=new, step=step))
    return list(found.values())


def claim(uri: str, recipe: Mapping[str, Any], *, contents: Mapping[str, str], allow_change: bool = False) -> bool:
    """Make `uri` the folder of this recipe's run; tell whether the run was there already (so it is resumed).

    What is allowed to change is written into changes.jsonl, a line each, so that a run's past stays known.

    Raises:
        RunError: as `check`.
        StorageError: the place cannot be written.
    """
    is_there = check(uri, recipe, contents=contents, allow_change=allow_change)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if is_there and allow_change:
        _note_changes(uri, changes(uri, recipe, contents=contents), now)
    storage.write_bytes(storage.join(uri, "recipe.yaml"), config.dump_yaml(dict(recipe)).encode())
    known = storage.join(uri, "environment.json")
    started = json.loads(storage.read_bytes(known)).get("started") if storage.exists(known) else None
    storage.write_bytes(known, json.dumps({"started": started or now, **environment()}, indent=1).encode())
    return is_there


def _other_state(
    state: checkpoint.TrainState, recipe: Mapping[str, Any], contents: Mapping[str, str]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield where a checkpoint says other than the recipe and its corpus: recipe.yaml may have been edited."""
    pairs: list[tuple[str, Any, Any]] = [("run.seed", state.seed, recipe["run"]["seed"])]
    pairs += [("train.global_batch", state.global_batch, recipe["train"]["global_batch"])]
    both = sorted(state.data.keys() & contents.keys())
    pairs += [(f"data.corpus (split {name})", state.data[name], contents[name]) for name in both]
    yield from (pair for pair in pairs if pair[1] != pair[2])


def _note_changes(uri: str, found: list[Change], now: str) -> None:
    where = storage.join(uri, "changes.jsonl")
    before = storage.read_bytes(where) if storage.exists(where) else b""
    lines = [json.dumps({"time": now, **asdict(change)}, default=list) + "\n" for change in found]
    if lines:
        storage.write_bytes(where, before + "".join(lines).encode())


def _short(value: Any) -> str:
    """Return a value for a message; of a hash the first digits."""
    is_hash = isinstance(value, str) and len(value) == 64
    return f"sha256 {value[:12]}" if is_hash else repr(value)


def environment() -> dict[str, Any]:
    """Return the versions that a run is made with."""
    return {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    if path in FREE:
        return
    if isinstance(old, dict) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), (*path, key))
    elif json.dumps(old, default=list) != json.dumps(new, default=list):
        yield ".".join(path), old, new
