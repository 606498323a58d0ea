"""Looking into checkpoints: is every byte the one that was saved, and what differs between two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medalign import storage
from medalign.checkpoint import manifest
from medalign.checkpoint.manifest import Saved
from medalign.checkpoint.tensor_file import FileRecord, hash_file, reading
from medalign.errors import CheckpointError, StorageError


def verify(saved: Saved) -> list[str]:
    """Return what is wrong with a checkpoint, a line each: files missing, cut short, swapped, damaged or unlisted."""
    try:
        content = manifest.read(saved.uri)
    except CheckpointError as error:
        return [str(error)]
    problems: list[str] = []
    for name, record in content.files.items():
        problems += _problems_of(storage.join(saved.uri, name), name, record)
    there = {uri.removeprefix(saved.uri.rstrip("/") + "/") for uri in storage.list_files(saved.uri)}
    unlisted = there - {manifest.FILE_NAME, *content.files}
    return problems + [f"{name} is not listed in the manifest" for name in sorted(unlisted)]


def _problems_of(where: str, name: str, record: FileRecord) -> Iterator[str]:
    if not storage.exists(where):
        yield f"{name} is missing"
        return
    try:
        size, digest = hash_file(where)
    except StorageError as error:
        yield f"{name} cannot be read ({error})"
        return
    if size != record.bytes:
        yield f"{name} has {size} bytes, the manifest says {record.bytes}"
    elif digest != record.sha256:
        yield f"{name} has another hash than the manifest's: {_damaged(where, record)}"


def _damaged(where: str, record: FileRecord) -> str:
    """Name the damaged tensors of a file."""
    bad = []
    try:
        with reading(where, record) as reader:
            for name in reader.names():
                try:
                    reader.read(name)
                except CheckpointError:
                    bad.append(name)
    except CheckpointError:
        return "its header is damaged"
    return ", ".join(bad[:3]) + (f" and {len(bad) - 3} more tensors" if len(bad) > 3 else "")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between two checkpoints.

    Attributes:
        facts: one line each: state, optimizer, recipe, tensors that only one of them has or whose shape differs.
        changed: the tensors with other values.
        same: tensors with equal bytes.
    """

    facts: list[str]
    changed: list[str]
    same: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not self.facts and not self.changed


def diff(first: Saved, second: Saved) -> Difference:
    """Compare two checkpoints by their manifests: no tensor is read.

    Raises:
        CheckpointError: a manifest is missing or damaged.
    """
    one, two = manifest.read(first.uri), manifest.read(second.uri)
    facts = [f"state.{line}" for line in _changes(asdict(one.state), asdict(two.state))]
    facts += [f"optimizer.{line}" for line in _changes(one.optimizer, two.optimizer)]
    facts += [f"recipe.{line}" for line in _changes(one.recipe, two.recipe)]
    if one.figure != two.figure:
        facts.append(f"figure: {one.figure} -> {two.figure}")
    left, right = one.tensors, two.tensors
    facts += [f"tensor {name}: only in the first" for name in sorted(left.keys() - right.keys())]
    facts += [f"tensor {name}: only in the second" for name in sorted(right.keys() - left.keys())]
    both = sorted(left.keys() & right.keys())
    changed = [name for name in both if left[name] != right[name]]
    return Difference(facts=facts, changed=changed, same=len(both) - len(changed))


def _changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif json.dumps(old) != json.dumps(new):
        yield f"{path}: {json.dumps(old)} -> {json.dumps(new)}"
