"""Where a run's numbers go: the settings, the protocol of a tracker, and all trackers of a run behind one.

Only rank 0 opens trackers; every other rank uses `Trackers()`, which takes everything and keeps nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from medalign.errors import UserError

Kind = Literal["train", "validation", "event"]


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where numbers go beside metrics.jsonl, which every run has.

    Attributes:
        tensorboard: write TensorBoard event files into the run.
        mlflow: the tracking URI of an MLflow server, or null (extra `tracking`).
        wandb: a Weights & Biases project, or null (extra `tracking`); credentials and mode come from its own
            environment variables.
        ray_metrics: publish to Ray's metrics, for Prometheus, where workers train on Ray.
        log_every: without a terminal, one line of progress per this many steps.
    """

    __pydantic_config__ = {"extra": "forbid", "strict": True}

    tensorboard: bool = True
    mlflow: str | None = None
    wandb: str | None = None
    ray_metrics: bool = True
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ValueError(f"log_every must be >= 1, got {self.log_every}.")
        for name in ("mlflow", "wandb"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must not be empty; delete the key to go without.")


class Tracker(Protocol):
    """One place that numbers go to."""

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Take the numbers of a step. A step is the count of optimizer steps done, so training logs 1, 2, ..."""

    def flush(self) -> None:
        """Bring what was taken to where it is kept."""

    def close(self, *, failed: bool = False) -> None:
        """Flush and end; `failed` tells services that the run did not reach its end."""


class Trackers:
    """Several trackers as one, and a context that closes them, each whether or not another fails."""

    def __init__(self, trackers: Sequence[Tracker] = ()):
        self.trackers = tuple(trackers)

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Give the numbers of a step to every tracker, as plain floats."""
        plain = {name: float(value) for name, value in values.items()} if self.trackers else {}
        for tracker in self.trackers:
            tracker.log(step, plain, kind=kind)

    def flush(self) -> None:
        """Flush every tracker; call it before a checkpoint is committed, so that no step before it lacks its line."""
        for tracker in self.trackers:
            tracker.flush()

    def close(self, *, failed: bool = False) -> None:
        """Close every tracker, the first opened last."""
        with contextlib.ExitStack() as closing:
            for tracker in self.trackers:
                closing.callback(tracker.close, failed=failed)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close(failed=kind is not None)


def open_trackers(
    settings: Tracking,
    uri: str,
    *,
    total_steps: int,
    step: int = 0,
    recipe: Mapping[str, Any] | None = None,
    console: bool = True,
) -> Trackers:
    """Open the trackers of a run, new or resumed.

    Args:
        settings: which of them.
        uri: the run's URI.
        total_steps: the number of optimizer steps of the whole run.
        step: the steps already done: 0 for a new run, the checkpoint's step for a resumed one. What a former attempt
            logged after it is dropped.
        recipe: the resolved recipe, which MLflow and W&B show beside the run.
        console: show progress here; False where another process `follow`s the run.

    Raises:
        UserError: a package of the extra `tracking` is missing, or a service cannot be opened.
        StorageError: the run's URI cannot be reached.
    """
    check_installed(settings)
    opened: list[Tracker] = []
    try:
        for tracker in _chosen(settings, uri, step=step, recipe=recipe):
            opened.append(tracker)
        if console:
            from medalign.tracking.console import Console

            opened.append(Console(total_steps=total_steps, step=step, log_every=settings.log_every))
    except BaseException:
        Trackers(opened).close(failed=True)
        raise
    return Trackers(opened)


def _chosen(settings: Tracking, uri: str, *, step: int, recipe: Mapping[str, Any] | None) -> Iterator[Tracker]:
    from medalign.tracking.json_lines import JsonLines

    yield JsonLines.resume(uri, step)
    if settings.tensorboard:
        from medalign.tracking.event_files import TensorBoard

        yield TensorBoard(uri, step=step)
    if settings.mlflow:
        from medalign.tracking.mlflow_runs import MLflow

        yield MLflow(settings.mlflow, uri, recipe=recipe)
    if settings.wandb:
        from medalign.tracking.wandb_runs import WandB

        yield WandB(settings.wandb, uri, recipe=recipe)
    if settings.ray_metrics and _is_on_ray():
        from medalign.tracking.ray_metrics import RayMetrics

        yield RayMetrics(uri, step=step)


def _is_on_ray() -> bool:
    """Tell whether this process is one of Ray's; it is not asked by importing Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def check_installed(settings: Tracking) -> None:
    """Check that the packages of the chosen services are there, without importing them.

    Raises:
        UserError: one is missing; the message names the extra that brings it.
    """
    for name in ("mlflow", "wandb"):
        if getattr(settings, name) and importlib.util.find_spec(name) is None:
            way_out = f"pip install 'medalign[tracking]', or delete the key tracking.{name}"
            raise UserError(f"tracking.{name}: the package {name} is not installed; {way_out}.")
