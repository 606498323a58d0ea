"""A run's checkpoints: saved by all ranks together, found, loaded, verified and pruned.

<run>/checkpoints/step-00000100/   model-00000.safetensors ...      weights; rank r writes parameters r, r + W, ...
                                   optimizer-00000.safetensors ...  the optimizer's tensors of the same parameters
                                   part-00000.json ...              what each rank wrote
                                   manifest.json                    every file's sha256, the TrainState; written last
<run>/checkpoints/latest.json      names the newest complete one; best.json the best
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from medalign import storage
from medalign.checkpoint.tensor_file import TensorReader, reading, writing
from medalign.errors import CheckpointError

SCHEMA_VERSION = "medalign.checkpoint/1"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that survives beside weights and optimizer. No random state: draws are keyed.

    Attributes:
        step: optimizer steps done; the next one is this step, counted from 0.
        seed: the run's seed.
        global_batch: rows per step, which with the seed fixes the order of samples.
        skipped: steps so far that were kept from the optimizer because they were not finite.
        best: the best validation figure so far, None before the first validation.
    """

    step: int
    seed: int
    global_batch: int
    skipped: int = 0
    best: float | None = None


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint."""

    uri: str
    state: TrainState


class TensorSource(Protocol):
    """What has full tensors: the engine. `gather` and `scatter` are collective, called in the order of `names`."""

    def names(self) -> list[str]: ...  # noqa: D102
    def shapes(self) -> dict[str, tuple[int, ...]]: ...  # noqa: D102
    def optimizer_keys(self) -> list[str]: ...  # noqa: D102
    def optimizer_step(self) -> int: ...  # noqa: D102
    def gather(self, name: str) -> dict[str, Tensor]: ...  # noqa: D102
    def scatter(self, name: str, tensors: Mapping[str, Tensor]) -> None: ...  # noqa: D102
    def prepare_optimizer(self, keys: list[str], step: int) -> None: ...  # noqa: D102
    def buffers(self) -> dict[str, Tensor]: ...  # noqa: D102
    def load_buffers(self, tensors: dict[str, Tensor]) -> None: ...  # noqa: D102


def uri_of(run: str, step: int) -> str:
    """Return the URI of a run's checkpoint of a step."""
    return storage.join(run, "checkpoints", f"step-{step:08d}")


def save(
    run: str,
    state: TrainState,
    source: TensorSource,
    *,
    recipe: Mapping[str, Any],
    rank: int,
    world: int,
    barrier: Callable[[], None],
) -> str:
    """Save a checkpoint and return its URI. Collective: every rank calls it at the same step.

    It does not exist before its manifest, which rank 0 writes after all ranks have written their files; the pointer
    `latest.json` moves after that.
    """
    uri = uri_of(run, state.step)
    if rank == 0:
        storage.delete_folder(uri)  # what a killed attempt at the same step has left
    barrier()
    _write_part(uri, source, rank=rank, world=world)
    barrier()
    if rank == 0:
        files: dict[str, Any] = {}
        for part in range(world):
            files |= json.loads(storage.read_bytes(storage.join(uri, f"part-{part:05d}.json")))
        manifest = {
            "schema": SCHEMA_VERSION,
            "state": asdict(state),
            "optimizer": {"keys": source.optimizer_keys(), "step": source.optimizer_step()},
            "files": files,
            "recipe": recipe,
        }
        _write_json(storage.join(uri, "manifest.json"), manifest)
        _write_json(storage.join(run, "checkpoints", "latest.json"), {"checkpoint": uri.rsplit("/", 1)[-1]})
    barrier()
    return uri


def _write_part(uri: str, source: TensorSource, *, rank: int, world: int) -> None:
    """Write this rank's parameters, one at a time, as they are gathered."""
    names, shapes, keys = source.names(), source.shapes(), source.optimizer_keys()
    own = names[rank::world]
    buffers = source.buffers() if rank == 0 else {}
    model_shapes = {name: shapes[name] for name in own} | {name: tuple(b.shape) for name, b in buffers.items()}
    optimizer_shapes = {f"{name}/{key}": shapes[name] for name in own for key in keys}
    model_file, optimizer_file = f"model-{rank:05d}.safetensors", f"optimizer-{rank:05d}.safetensors"
    with (
        writing(storage.join(uri, model_file), model_shapes) as model,
        writing(storage.join(uri, optimizer_file), optimizer_shapes) as optimizer,
    ):
        for number, name in enumerate(names):
            tensors = source.gather(name)
            if number % world == rank:
                model.add(name, tensors["weight"])
                for key in keys:
                    optimizer.add(f"{name}/{key}", tensors[key])
        for name, buffer in buffers.items():
            model.add(name, buffer)
    files = {
        name: {"bytes": writer.bytes, "sha256": writer.sha256}
        for name, writer in ((model_file, model), (optimizer_file, optimizer))
    }
    _write_json(storage.join(uri, f"part-{rank:05d}.json"), files)


def load(saved: Saved, source: TensorSource) -> None:
    """Load a checkpoint, before step 1, into any number of ranks and any ZeRO stage. Collective.

    Raises:
        CheckpointError: it does not fit the module: a missing or another parameter, another shape.
    """
    manifest = _manifest(saved.uri)
    shapes, keys = source.shapes(), manifest["optimizer"]["keys"]
    with contextlib.ExitStack() as stack:
        readers = _readers(saved.uri, manifest, stack)
        wanted = {*source.names(), *source.buffers(), *(f"{name}/{key}" for name in source.names() for key in keys)}
        if wanted != readers.keys():
            missing, unknown = sorted(wanted - readers.keys()), sorted(readers.keys() - wanted)
            raise CheckpointError(f"{saved.uri}: of another model; missing {missing[:3]}, unknown {unknown[:3]}.")
        for name in source.names():
            if readers[name].shape(name) != shapes[name]:
                found = readers[name].shape(name)
                raise CheckpointError(f"{saved.uri}: {name} has shape {found}, the model's is {shapes[name]}.")
        if keys:
            source.prepare_optimizer(keys, manifest["optimizer"]["step"])
        for name in source.names():
            tensors = {"weight": readers[name].read(name)}
            tensors |= {key: readers[f"{name}/{key}"].read(f"{name}/{key}") for key in keys}
            source.scatter(name, tensors)
        source.load_buffers({name: readers[name].read(name) for name in source.buffers()})


def weights(saved: Saved) -> dict[str, Tensor]:
    """Return all weights and buffers of a checkpoint, by the module's names."""
    manifest = _manifest(saved.uri)
    with contextlib.ExitStack() as stack:
        readers = _readers(saved.uri, manifest, stack)
        return {name: reader.read(name) for name, reader in readers.items() if "/" not in name}


def latest(run: str) -> Saved | None:
    """Return the newest complete checkpoint of a run, or None. The pointer is a hint; completeness decides."""
    folder = storage.join(run, "checkpoints")
    for name in reversed(storage.list_folders(folder)):
        uri = storage.join(folder, name)
        if storage.exists(storage.join(uri, "manifest.json")):
            return _saved(uri)
    return None


def best(run: str) -> Saved | None:
    """Return the best checkpoint by validation, or None where none is named."""
    pointer = storage.join(run, "checkpoints", "best.json")
    if not storage.exists(pointer):
        return None
    uri = storage.join(run, "checkpoints", json.loads(storage.read_bytes(pointer))["checkpoint"])
    return _saved(uri)


def mark_best(run: str, uri: str, figure: float) -> None:
    """Name the best checkpoint."""
    _write_json(storage.join(run, "checkpoints", "best.json"), {"checkpoint": uri.rsplit("/", 1)[-1], "figure": figure})


def prune(run: str, *, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints and the best one; a deleted one's manifest goes first."""
    folder = storage.join(run, "checkpoints")
    complete = [n for n in storage.list_folders(folder) if storage.exists(storage.join(folder, n, "manifest.json"))]
    named = best(run)
    spared = {named.uri.rsplit("/", 1)[-1]} if named else set()
    for name in complete[:-keep]:
        if name not in spared:
            storage.delete_file(storage.join(folder, name, "manifest.json"))
    for name in storage.list_folders(folder):  # what was just deleted, and the remains of killed saves
        if complete and name < complete[-1] and not storage.exists(storage.join(folder, name, "manifest.json")):
            storage.delete_folder(storage.join(folder, name))


def verify(saved: Saved) -> list[str]:
    """Return what is wrong with a checkpoint's files: missing, or another hash than its manifest's."""
    problems = []
    for name, entry in _manifest(saved.uri)["files"].items():
        where = storage.join(saved.uri, name)
        if not storage.exists(where):
            problems.append(f"{name} is missing")
        elif hashlib.sha256(storage.read_bytes(where)).hexdigest() != entry["sha256"]:
            problems.append(f"{name} has another hash than the manifest's")
    return problems


def _readers(uri: str, manifest: Mapping[str, Any], stack: contextlib.ExitStack) -> dict[str, TensorReader]:
    """Return the reader of each tensor of a checkpoint."""
    readers: dict[str, TensorReader] = {}
    for name in manifest["files"]:
        reader = stack.enter_context(reading(storage.join(uri, name)))
        readers |= dict.fromkeys(reader.names(), reader)
    return readers


def _saved(uri: str) -> Saved:
    try:
        return Saved(uri, TrainState(**_manifest(uri)["state"]))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{uri}: the manifest has no state that can be read ({error}).") from error


def _manifest(uri: str) -> dict[str, Any]:
    where = storage.join(uri, "manifest.json")
    try:
        manifest = json.loads(storage.read_bytes(where))
    except ValueError as error:
        raise CheckpointError(f"{where}: not JSON ({error}).") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA_VERSION:
        raise CheckpointError(f"{where}: schema {schema!r}, this release reads {SCHEMA_VERSION!r}.")
    return manifest


def _write_json(uri: str, value: Mapping[str, Any]) -> None:
    storage.write_bytes(uri, json.dumps(value, indent=1, sort_keys=True).encode())
