"""Weights & Biases: one W&B run per run URI, resumed under the same id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medalign import storage
from medalign.errors import UserError
from medalign.tracking import Kind
from medalign.tracking.event_files import LocalFolder, run_key


class WandB:
    """Values KIND/NAME at their step, and the recipe as the run's config; its files lie in RUN/wandb.

    W&B takes steps in rising order only, so a step that is trained again after a crash keeps its first point.
    """

    def __init__(self, project: str, uri: str, *, recipe: Mapping[str, Any] | None = None):
        import wandb

        self._folder = LocalFolder(uri, "wandb")
        name = storage.absolute(uri).rstrip("/").rpartition("/")[2]
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=run_key(uri),
                resume="allow",
                dir=str(self._folder.path),
                config=dict(recipe or {}),
            )
        except (wandb.Error, ValueError) as error:
            cause = " ".join(str(error).split())[:300]
            raise UserError(f"tracking.wandb = {project}: cannot be opened ({cause}); see `wandb login`.") from error

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Take the numbers of a step; W&B sends them from a process of its own."""
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def flush(self) -> None:
        """Nothing to do: W&B's own process has them already."""

    def close(self, *, failed: bool = False) -> None:
        """End the W&B run; what was logged offline into a remote run is uploaded there."""
        self._run.finish(exit_code=int(failed))
        self._folder.close()
