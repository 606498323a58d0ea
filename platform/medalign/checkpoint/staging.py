"""Writing a rank's share of a checkpoint into a folder: one tensor at a time, as all ranks gather it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from medalign import storage
from medalign.checkpoint import room
from medalign.checkpoint.layout import FilePlan, owners, plan_files
from medalign.checkpoint.source import WEIGHT, TensorSource, agree
from medalign.checkpoint.tensor_file import FileRecord, TensorWriter, writing
from medalign.errors import CheckpointError, MedAlignError
from medalign.faults import fault

Records = dict[str, FileRecord]


def stage(folder: str, source: TensorSource, attempt: str) -> Records:
    """Write this rank's files and return their records. Collective; it fails on every rank if it fails on one.

    Args:
        folder: where this rank's files go.
        source: the tensors.
        attempt: part of the files' names.

    Raises:
        DiskFullError: no room, here or on another rank.
        MedAlignError: the files cannot be written, here or on another rank.
    """
    names, shapes, keys = source.names(), source.shapes(), source.optimizer_keys()
    owner, buffers = owners(shapes, source.world), source.buffers()
    buffer_shapes = {name: tuple(value.shape) for name, value in buffers.items()}
    plans = plan_files(shapes, keys=keys, buffers=buffer_shapes, world=source.world, attempt=attempt)
    part = _Part(folder, [plan for plan in plans if plan.rank == source.rank])
    for number, name in enumerate(names):
        if number == len(names) // 2:
            part.attempt_to(lambda: fault("ckpt.mid_file"))
        for key in (WEIGHT, *keys):
            value = source.gather(name, key, owner=owner[name])
            if owner[name] == source.rank:
                assert value is not None
                part.add(name, key, value)
            del value  # before the next one is there
    for name, value in buffers.items() if source.rank == 0 else ():
        part.add(name, WEIGHT, value)
    part.attempt_to(lambda: fault("ckpt.before_files"))
    records = part.close()
    agree(source, part.problem, f"{folder}: saving")
    return records


class _Part:
    """One rank's open files. A rank that cannot write goes on gathering with the others, and says so at the end."""

    def __init__(self, folder: str, plans: list[FilePlan]) -> None:
        self.problem: MedAlignError | None = None
        self._folder, self._plans = folder, plans
        self._files = contextlib.ExitStack()
        self._writers: list[TensorWriter] = []
        self.attempt_to(self._open)

    def add(self, name: str, key: str, value: Tensor) -> None:
        """Write the next tensor."""
        file, entry = (0, name) if key == WEIGHT else (1, f"{name}/{key}")
        self.attempt_to(lambda: self._writers[file].add(entry, value))

    def close(self) -> Records:
        """Let the files appear, or leave nothing of them; return their records."""
        self.attempt_to(self._files.close)
        if self.problem is not None:
            with contextlib.suppress(MedAlignError), self._files:
                raise self.problem
            return {}
        return {plan.name: writer.record for plan, writer in zip(self._plans, self._writers, strict=True)}

    def attempt_to(self, action: Callable[[], None]) -> None:
        """Do it, unless something has failed already; keep what fails."""
        if self.problem is None:
            try:
                action()
            except (OSError, MedAlignError) as error:
                needed = sum(plan.bytes for plan in self._plans)
                self.problem = room.explain(error, where=self._folder, needed=needed)

    def _open(self) -> None:
        for plan in self._plans:
            where = storage.join(self._folder, plan.name)
            self._writers.append(self._files.enter_context(writing(where, plan.shapes)))


def write_part(uri: str, rank: int, attempt: str, records: Records) -> None:
    """Write what a rank wrote, for rank 0 to put into the manifest: its files are in place when this is."""
    content = {"attempt": attempt, "files": {name: asdict(record) for name, record in records.items()}}
    storage.write_bytes(_part_of(uri, rank), json.dumps(content).encode())


def read_part(uri: str, rank: int, attempt: str) -> Records | None:
    """Return what a rank wrote in this attempt, None as long as it has not."""
    where = _part_of(uri, rank)
    if not storage.exists(where):
        return None
    content = json.loads(storage.read_bytes(where))
    if content["attempt"] != attempt:
        return None
    return {name: FileRecord(**record) for name, record in content["files"].items()}


def read_parts(uri: str, world: int, attempt: str) -> Records:
    """Return what all ranks wrote.

    Raises:
        CheckpointError: a rank's part is not there.
    """
    found: Records = {}
    for rank in range(world):
        records = read_part(uri, rank, attempt)
        if records is None:
            raise CheckpointError(f"{uri}: rank {rank}'s part is not there; do all ranks see the same folder?")
        found |= records
    return found


def _part_of(uri: str, rank: int) -> str:
    return storage.join(uri, f"part-{rank:05d}.json")
