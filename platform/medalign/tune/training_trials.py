"""Trials of a training recipe: each is a run as `medalign train` would make it, below the sweep, watched by Tune.

With `train.workers: 0` the loop runs in the trial's actor. With more, the actor only drives: it builds and fits a
TorchTrainer whose workers have resources of their own, the pattern of Ray Train V2.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from medalign import checkpoint, config, storage
from medalign.cluster import own_error
from medalign.config import Document
from medalign.errors import NonFiniteError, RunLockedError
from medalign.launch import train
from medalign.recipe import Recipe, open_recipe
from medalign.tracking import Kind
from medalign.tune.exchange import Talk
from medalign.tune.packing import Demand
from medalign.tune.settings import Tune
from medalign.tune.space import Space, overrides_of

LOCK_S = 90.0  # that a run's lock outlives a driver on another machine


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """What every trial shares: the recipe's text, where runs go, and the figure that names the best checkpoint."""

    text: str
    uri: str
    best: str

    def run(self, number: int, point: Mapping[str, Any], talk: Talk) -> None:
        """Train the run of a point, or go on with it where its worker died.

        Raises:
            MedAlignError: training failed; or a figure was not finite.
        """
        uri = run_of(self.uri, number)
        saved = checkpoint.latest(uri)
        watch = _Watch(talk, first=saved.state.step if saved else 0)
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder, "recipe.yaml")
            recipe.write_text(self.text)
            overrides = [*overrides_of(point), *overrides_of({"run.uri": uri, "train.best": self.best})]
            watch.total = self._steps(str(recipe), overrides)
            _patiently(str(recipe), overrides, watch)
        if watch.broken:
            raise NonFiniteError(watch.broken)

    def _steps(self, recipe: str, overrides: list[str]) -> int:
        from medalign.launch import dry_run

        return dry_run(recipe, overrides)[1].total_steps


class TrainingSubject:
    """A training recipe as the subject of a sweep."""

    def __init__(self, document: Document, settings: Tune) -> None:
        self._document, self._settings = document, settings
        self._text = config.dump_yaml(document.values)
        with tempfile.TemporaryDirectory() as folder:
            self._recipe = self._opened(folder, {})
        if settings.few_shot is not None:
            raise document.error(("tune", "few_shot"), "is for few-shot recipes; leave it out.")
        if not self._recipe.train.validate_every:
            problem = "must be >= 1: trials are compared by a figure of the validation, never of training."
            raise document.error(("train", "validate_every"), problem, value=0)
        train_section = self._recipe.train
        self.demand = Demand(
            workers=train_section.workers, cpus=train_section.cpus_per_worker, gpus=train_section.gpus_per_worker
        )

    def check(self, space: Space) -> None:
        """Open the recipe at every end of the space.

        Raises:
            RecipeError: a key that the recipe lacks, or a value that it refuses.
        """
        for axis in space.axes:
            if axis.key in ("run.uri", "train.best") or axis.key.startswith(
                ("train.workers", "train.gpus", "train.cpus")
            ):
                raise self._document.error(("search", axis.key), "is the sweep's own; search another key.")
        with tempfile.TemporaryDirectory() as folder:
            for point in space.edges():
                self._opened(folder, point)

    def check_metrics(self) -> None:
        """Try the objective on one validation micro-batch, where a trial would, and refuse a metric that it lacks.

        Raises:
            RecipeError: see above.
        """
        import ray

        gpus = self.demand.gpus or self._settings.gpus
        resources: dict[str, Any] = {"num_cpus": self._settings.cpus, "num_gpus": gpus}
        task = cast(Any, ray.remote(max_retries=0, **resources)(_figures))
        try:
            known = ray.get(task.remote(self._text, [f"run.uri={storage.join(self._settings.uri, 'trials', 'none')}"]))
        except ray.exceptions.RayError as error:
            raise own_error(error, doing="a first look at the validation") from error
        for name in self._settings.metrics:
            if name not in known:
                problem = f"no validation of this recipe reports it; there is: {', '.join(known)}."
                raise self._document.error(("tune", "metric"), problem, value=name)

    def total_steps(self, space: Space) -> int:
        """Return the optimizer steps of a trial; epochs are counted by the corpus."""
        from medalign.launch import dry_run

        with tempfile.TemporaryDirectory() as folder:
            return dry_run(self._written(folder), [f"run.uri={storage.join(folder, 'none')}"])[1].total_steps

    def work(self) -> TrainingWork:
        """Return what trials share."""
        sign = "-" if self._settings.modes[0] == "min" else ""
        return TrainingWork(text=self._text, uri=self._settings.uri, best=f"{sign}{self._settings.metrics[0]}")

    def best_recipe(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole recipe of a point, for `medalign train`: a run of its own, beside those of the sweep."""
        with tempfile.TemporaryDirectory() as folder:
            more = {"run.uri": storage.join(self._settings.uri, "best", "alone"), "train.best": self.work().best}
            return config.resolve(self._opened(folder, {**point, **more}))

    def export(self, work: Any, point: Mapping[str, Any], number: int, to: str) -> list[str]:
        """Copy the best trial's run, its checkpoints within; drop the others' if so set."""
        target = storage.join(to, "run")
        storage.delete_folder(target)
        storage.copy_folder(run_of(self._settings.uri, number), target)
        if not self._settings.keep_runs:
            storage.delete_folder(storage.join(self._settings.uri, "trials"))
        return [target]

    def _opened(self, folder: str, point: Mapping[str, Any]) -> Recipe:
        return open_recipe(self._written(folder), overrides_of(point))[0]

    def _written(self, folder: str) -> str:
        at = Path(folder, Path(self._document.source).name).with_suffix(".yaml")
        at.write_text(self._text)
        return str(at)


def run_of(uri: str, number: int) -> str:
    """Return where the run of a trial lives."""
    return storage.join(uri, "trials", f"{number:05d}")


class _Watch:
    """Passes every validation on to Tune, and its answer on to the run."""

    def __init__(self, talk: Talk, *, first: int) -> None:
        self._talk, self._first, self._is_stopped = talk, first, False
        self.total = 0
        self.broken = ""

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        if kind != "validation" or self._is_stopped:
            return
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if "loss" in bad:
            self.broken, self._is_stopped = f"step {step}: the validation's loss is not finite.", True
            return
        self._is_stopped = not self._talk(step, values, total=self.total, worked=step - self._first)

    def flush(self) -> None:
        pass

    def close(self, *, failed: bool = False) -> None:
        pass

    def wants_stop(self) -> bool:
        return self._is_stopped


def _patiently(recipe: str, overrides: list[str], watch: _Watch) -> None:
    """Train; wait for the lock of a driver that died on another machine, which only time shows."""
    ends = time.monotonic() + LOCK_S
    while True:
        try:
            train(recipe, overrides, watch=watch)
            return
        except RunLockedError:
            if time.monotonic() > ends:
                raise
            time.sleep(5)


def _figures(text: str, overrides: list[str]) -> list[str]:
    from medalign.launch.figures import validation_figures

    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(text)
        return validation_figures(str(recipe), overrides)
