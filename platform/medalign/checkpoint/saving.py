"""Saving a run's checkpoints: written by all ranks together, complete or absent, old ones pruned.

Where the run is local, a save returns when its checkpoint is complete. Where it is remote, a save returns when this
rank's share lies in a local folder; a thread brings it to the run (uploads.py) while training goes on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import torch

from medalign import storage
from medalign.checkpoint import catalogue, room, staging
from medalign.checkpoint.manifest import Manifest, TrainState
from medalign.checkpoint.source import TensorSource, together
from medalign.checkpoint.uploads import IN_FLIGHT, Upload, Uploads
from medalign.errors import MedAlignError
from medalign.faults import fault

UPLOAD_DEADLINE_S = 900.0


class Saver:
    """Saves one run's checkpoints, on one of its ranks. Collective: every rank makes one, and calls it alike.

    Args:
        run: the run's URI.
        source: the tensors, and the ranks.
        keep: complete checkpoints to keep beside the best one; None deletes none.
        deadline: seconds that one checkpoint may take to reach a remote run.
    """

    def __init__(
        self, run: str, source: TensorSource, *, keep: int | None = None, deadline: float = UPLOAD_DEADLINE_S
    ) -> None:
        self._run, self._source, self._keep = run, source, keep
        self._attempt = _agreed_attempt(source)
        self._uploads: Uploads | None = None
        with together(source, f"{run}: looking for earlier checkpoints"):
            if source.rank == 0:
                catalogue.sweep(run)
            newest = catalogue.latest(run)
        if not storage.is_local(run):
            good = newest.uri if newest else None
            self._uploads = Uploads(run, rank=source.rank, attempt=self._attempt, deadline=deadline, last_good=good)

    def check_room(self, saves: int) -> None:
        """Check that the disk can hold what `saves` further saves will leave there at once. Collective.

        Raises:
            DiskFullError: it cannot.
        """
        files, source = room.planned_files(self._source), self._source
        with together(source, f"{self._run}: looking for room"):
            if self._uploads:
                own = [plan for plan in files if plan.rank == source.rank]
                room.require(self._uploads.folder, own, copies=min(saves, IN_FLIGHT))
            elif source.rank == 0:
                folder = catalogue.folder_of(self._run)
                copies = min(saves, (self._keep or saves) + 1)
                room.require(folder, files, copies=copies, held=room.held_bytes(folder))

    def save(self, state: TrainState, recipe: Mapping[str, Any], *, figure: float | None = None) -> str:
        """Save a checkpoint and return its URI. Collective.

        Args:
            state: how far training is.
            recipe: the resolved recipe.
            figure: the validation figure that makes this the best checkpoint so far, None if it is not.

        Raises:
            DiskFullError: no room; earlier checkpoints are intact.
            CheckpointError: an earlier one did not reach the run in time, or another rank failed.
        """
        source, uri = self._source, catalogue.uri_of(self._run, state.step)
        fault("ckpt.before_stage")
        folder = self._uploads.make_room(state.step) if self._uploads else uri
        try:
            records = staging.stage(folder, source, self._attempt)
        except MedAlignError:  # on every rank: what some have written would only take room
            if source.rank == 0 or self._uploads:
                storage.delete_folder(folder)
            raise
        fault("ckpt.after_stage")
        optimizer = {"keys": source.optimizer_keys(), "step": source.optimizer_step()}
        content = Manifest(state=state, files=records, optimizer=optimizer, figure=figure, recipe=recipe)
        upload = Upload(run=self._run, uri=uri, folder=folder, world=source.world, content=content, keep=self._keep)
        if self._uploads:
            self._uploads.add(upload)
            return uri
        with together(source, f"{uri}: saving"), room.guarded(uri):
            staging.write_part(uri, source.rank, self._attempt, records)
        fault("ckpt.after_part")
        with together(source, f"{uri}: saving"), room.guarded(uri):
            if source.rank == 0:
                upload.publish(staging.read_parts(uri, source.world, self._attempt))
        return uri

    def check(self) -> None:
        """Raise what kept an earlier checkpoint from reaching the run.

        Raises:
            CheckpointError: it did not arrive by its deadline, or was refused; the last good one is named.
        """
        if self._uploads:
            self._uploads.check()

    def drain(self) -> None:
        """Wait until every checkpoint is complete.

        Raises:
            CheckpointError: as `check`.
        """
        if self._uploads:
            self._uploads.drain()

    def abandon(self, seconds: float) -> None:
        """Give what is on its way this long to arrive, then leave it: another error is ending the run."""
        if self._uploads:
            self._uploads.abandon(seconds)


def save(run: str, state: TrainState, source: TensorSource, *, recipe: Mapping[str, Any]) -> str:
    """Save one checkpoint, complete when this returns, and return its URI. Collective."""
    saver = Saver(run, source)
    uri = saver.save(state, recipe)
    saver.drain()
    return uri


def _agreed_attempt(source: TensorSource) -> str:
    """Return a name that the ranks of this attempt share and no other attempt has."""
    drawn = torch.tensor([float(part) for part in uuid.uuid4().bytes[:4]])  # bytes are exact in fp32
    shared = source.share(drawn if source.rank == 0 else None, (4,), owner=0)
    return bytes(int(part) for part in shared.tolist()).hex()
