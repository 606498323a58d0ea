"""A run's folder: claimed by one recipe, resumed by the same one, and what is written there before training."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import yaml

from medalign import config, storage
from medalign.errors import RunError

PACKAGES = ("medalign", "torch", "ray", "deepspeed", "transformers", "numpy", "scipy", "pyarrow", "pillow")
# What may differ when a run goes on: nothing here changes which samples a step sees or what it computes with them.
FREE = (
    ("run", "uri"),
    ("data", "corpus"),
    ("tracking",),
    *(("train", key) for key in ("workers", "zero_stage", "max_failures", "cpus_per_worker", "gpus_per_worker")),
    *(("train", key) for key in ("threads", "keep_last", "checkpoint_every", "on_nonfinite", "validate_every")),
    ("train", "upload_deadline"),
)


def check(uri: str, recipe: Mapping[str, Any]) -> bool:
    """Tell whether this recipe's run is at `uri` already (so it is resumed). Writes nothing.

    Raises:
        RunError: another recipe's run lives there; the first differing key is named.
        StorageError: the place cannot be reached.
    """
    where = storage.join(uri, "recipe.yaml")
    if not storage.exists(where):
        return False
    for key, old, new in _differences(yaml.safe_load(storage.read_bytes(where)), recipe):
        raise RunError(
            f"{uri}: this run was started with {key} = {old!r}, now it is {new!r};"
            " choose another run.uri, or the same value to resume."
        )
    return True


def claim(uri: str, recipe: Mapping[str, Any]) -> bool:
    """Make `uri` the folder of this recipe's run; tell whether the run was there already (so it is resumed).

    Raises:
        RunError: as `check`.
        StorageError: the place cannot be written.
    """
    is_there = check(uri, recipe)
    where = storage.join(uri, "recipe.yaml")
    storage.write_bytes(where, config.dump_yaml(dict(recipe)).encode())
    known = storage.join(uri, "environment.json")
    started = json.loads(storage.read_bytes(known)).get("started") if storage.exists(known) else None
    now = {"started": started or datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
    storage.write_bytes(known, json.dumps(now, indent=1).encode())
    return is_there


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
