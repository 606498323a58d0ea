"""Loading a checkpoint into any number of ranks and any ZeRO stage: a tensor is read and checked once, then shared."""

from __future__ import annotations

import contextlib

from torch import Tensor

from medalign import storage
from medalign.checkpoint import manifest
from medalign.checkpoint.manifest import Manifest, Saved
from medalign.checkpoint.source import WEIGHT, TensorSource, together
from medalign.checkpoint.tensor_file import TensorReader, reading
from medalign.errors import CheckpointError

Readers = dict[str, TensorReader]


def load(saved: Saved, source: TensorSource) -> None:
    """Load a checkpoint, before step 1. Collective; it fails on every rank if it fails on one.

    No rank ever holds more than one full tensor beside its own share. Every byte is checked against the manifest.

    Raises:
        CheckpointError: a file is damaged, missing or another's; or it does not fit the module: a missing or another
            parameter, another shape. Where it does not fit, nothing has been changed.
    """
    with contextlib.ExitStack() as stack:
        content, readers = None, {}
        with together(source, f"{saved.uri}: loading"):
            content = manifest.read(saved.uri)
            readers = _readers(saved.uri, content, stack)
            _check_fit(saved.uri, content, readers, source)
        assert content is not None
        if content.keys:
            source.prepare_optimizer(content.keys, content.optimizer["step"])
        shapes, turn = source.shapes(), 0
        for name in source.names():
            for key in (WEIGHT, *content.keys):
                source.scatter(name, key, _shared(readers, _entry(name, key), shapes[name], source=source, turn=turn))
                turn += 1
        buffers = {}
        for name, value in source.buffers().items():
            buffers[name] = _shared(readers, name, tuple(value.shape), source=source, turn=turn)
            turn += 1
        source.load_buffers(buffers)


def weights(saved: Saved, *, prefix: str = "") -> dict[str, Tensor]:
    """Return the weights and buffers of a checkpoint whose names begin with `prefix`, by the module's names.

    Raises:
        CheckpointError: a file is damaged, missing or another's.
    """
    content = manifest.read(saved.uri)
    with contextlib.ExitStack() as stack:
        readers = _readers(saved.uri, content, stack)
        return {
            name: reader.read(name) for name, reader in readers.items() if "/" not in name and name.startswith(prefix)
        }


def _shared(readers: Readers, entry: str, shape: tuple[int, ...], *, source: TensorSource, turn: int) -> Tensor:
    """Return a tensor on every rank; the ranks take turns reading. Collective."""
    owner, value = turn % source.world, None
    with together(source, f"{entry}: loading"):
        if source.rank == owner:
            value = readers[entry].read(entry)
    return source.share(value, shape, owner=owner)


def _readers(uri: str, content: Manifest, stack: contextlib.ExitStack) -> Readers:
    """Return the reader of each tensor of a checkpoint, the files' headers checked."""
    readers: Readers = {}
    for name, record in content.files.items():
        where = storage.join(uri, name)
        if not storage.exists(where):
            raise CheckpointError(f"{where}: missing, though the manifest lists it.")
        reader = stack.enter_context(reading(where, record))
        if twice := readers.keys() & set(reader.names()):
            raise CheckpointError(f"{where}: {min(twice)} is in another file as well.")
        readers |= dict.fromkeys(reader.names(), reader)
    return readers


def _check_fit(uri: str, content: Manifest, readers: Readers, source: TensorSource) -> None:
    shapes, buffers = source.shapes(), {name: tuple(value.shape) for name, value in source.buffers().items()}
    wanted = {_entry(name, key): shape for name, shape in shapes.items() for key in (WEIGHT, *content.keys)} | buffers
    if wanted.keys() != readers.keys():
        missing, unknown = sorted(wanted.keys() - readers.keys()), sorted(readers.keys() - wanted.keys())
        raise CheckpointError(f"{uri}: of another model; missing {missing[:3]}, unknown {unknown[:3]}.")
    for entry, shape in wanted.items():
        found = readers[entry].shape(entry)
        if found != shape:
            raise CheckpointError(f"{uri}: {entry} has shape {found}, the model's is {shape}.")


def _entry(name: str, key: str) -> str:
    return name if key == WEIGHT else f"{name}/{key}"
