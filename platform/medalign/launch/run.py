"""train(recipe): from a recipe to a finished run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from medalign import build, checkpoint, config, storage
from medalign.data.settings import Data
from medalign.errors import StoppedError
from medalign.launch import folder
from medalign.launch.interrupts import Interrupts, listening
from medalign.launch.watching import Watch
from medalign.plan import RunPlan, name_objective, plan_run
from medalign.recipe import Recipe, open_recipe
from medalign.storage import locks
from medalign.tracking import check_installed


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        uri: where the run lives.
        step: optimizer steps done.
        total_steps: optimizer steps planned.
        skipped: steps that were not finite and changed nothing.
        best: the best validation figure, None without validation.
        last: the last figures by kind, "train" and "validation".
        notes: what a user should know about how the recipe was read.
    """

    uri: str
    step: int
    total_steps: int
    skipped: int
    best: float | None
    last: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def train(
    recipe: str, overrides: Sequence[str] = (), *, allow_change: bool = False, watch: Watch | None = None
) -> TrainResult:
    """Train what a recipe says, or go on where the same run stopped.

    In the main thread, SIGTERM or SIGINT ends it after the step at work, with a checkpoint; a second one at once.

    Args:
        recipe: a YAML file or the name of a shipped recipe, e.g. "lvm_med/tiny_cpu".
        overrides: dotted keys laid over it, e.g. ["data.corpus=corpora/demo", "train.steps=100"].
        allow_change: go on even where seed, data, global batch or another key is not what the run was started with.
        watch: sees the figures in place of the console, and may ask the run to save and end: then `step` of the result
            is less than `total_steps`.

    Raises:
        UserError: anything wrong with the recipe, the corpus, the run's place or the plan; before training starts.
        RunLockedError: the same run is at work already, here or elsewhere.
        StoppedError: a signal has ended it; the same call goes on.
        KeyboardInterrupt: a second signal came.
        MedAlignError: training failed.
    """
    settled, plan, notes = _prepare(recipe, overrides, allow_change=allow_change)
    start = partial(_in_process if settled.train.workers == 0 else _on_ray, watch=watch)
    claim = partial(
        folder.claim, settled.run.uri, config.resolve(settled), contents=plan.contents, allow_change=allow_change
    )
    lock = locks.of_run(settled.run.uri)
    if settled.train.workers and not _has_ended(settled, plan):
        locks.check(lock, of=settled.run.uri)
        _join_cluster(settled)  # before the lock: a plan that the cluster cannot run leaves nothing behind
    with (
        listening(watch.wants_stop if watch else bool) as interrupts,
        locks.hold(lock, of=settled.run.uri, on_lost=interrupts.end_now),
    ):
        values = _finished(settled, plan, claim) or start(settled, plan, claim, interrupts)
    if values.get("reason") == "asked" and interrupts.received:
        raise _stopped(interrupts.received, settled.run.uri, values["step"])
    return TrainResult(
        uri=settled.run.uri,
        step=values["step"],
        total_steps=plan.total_steps,
        skipped=values["skipped"],
        best=values["best"],
        last=values["last"],
        notes=notes,
    )


def dry_run(recipe: str, overrides: Sequence[str] = (), *, allow_change: bool = False) -> tuple[Recipe, RunPlan]:
    """Return the resolved recipe and its plan, checked, without starting or writing anything.

    Raises:
        UserError: as `train`.
    """
    settled, plan, _ = _prepare(recipe, overrides, allow_change=allow_change)
    return settled, plan


def _prepare(name: str, overrides: Sequence[str], *, allow_change: bool) -> tuple[Recipe, RunPlan, tuple[str, ...]]:
    with storage.patience(tries=4, seconds=15.0):  # a wrong address should not take minutes to be told
        return _settle(name, overrides, allow_change=allow_change)


def _settle(name: str, overrides: Sequence[str], *, allow_change: bool) -> tuple[Recipe, RunPlan, tuple[str, ...]]:
    recipe, document = open_recipe(name, overrides)
    check_installed(recipe.tracking)
    data = _located(recipe.data)
    settled = replace(
        recipe,
        run=replace(recipe.run, uri=storage.absolute(recipe.run.uri)),
        data=data,
        model=_started(recipe.model),
        objective=name_objective(recipe.objective, data),
    )
    plan = plan_run(
        seed=settled.run.seed,
        data=settled.data,
        train=settled.train,
        objective=settled.objective,
        model=settled.model,
    )
    uri, resolved = settled.run.uri, config.resolve(settled)
    notes = tuple(document.notes)
    if folder.check(uri, resolved, contents=plan.contents, allow_change=allow_change):  # before anything starts
        found = folder.changes(uri, resolved, contents=plan.contents)
        notes += tuple(f"{uri}: goes on though it was started with {change}" for change in found)
    return settled, plan, notes


def _located(data: Data) -> Data:
    """Return the data section with whole URIs, which mean the same on every node."""
    if data.mixture is None:
        return replace(data, corpus=storage.absolute(data.corpus))
    return replace(data, mixture=tuple(replace(part, uri=storage.absolute(part.uri)) for part in data.mixture))


def _started(model: Any) -> Any:
    """Return the model section with a whole URI where it goes on from a run, which must have a checkpoint."""
    source = str(getattr(model, "source", None) or "")
    if not build.is_run(source):
        return model
    checkpoint.catalogue.chosen(source, "best")
    return replace(model, source=storage.absolute(source))


def _has_ended(recipe: Recipe, plan: RunPlan) -> bool:
    saved = checkpoint.latest(recipe.run.uri)
    return saved is not None and saved.state.step >= plan.total_steps


def _finished(recipe: Recipe, plan: RunPlan, claim: Callable[[], bool]) -> dict[str, Any] | None:
    """Return the end of a run that has nothing left to do, None where there is something."""
    saved = checkpoint.latest(recipe.run.uri)
    if saved is None or not _has_ended(recipe, plan):
        return None
    claim()
    return {"step": saved.state.step, "skipped": saved.state.skipped, "best": saved.state.best, "last": {}}


def _stopped(by: signal.Signals, uri: str, step: int) -> StoppedError:
    return StoppedError(
        f"{uri}: stopped by {by.name} after step {step}, which is saved; the same command goes on.",
        exit_code=128 + by,
    )


def _join_cluster(recipe: Recipe) -> None:
    from medalign.launch.on_ray import connect

    connect(recipe)


def _on_ray(
    recipe: Recipe, plan: RunPlan, claim: Callable[[], bool], interrupts: Interrupts, *, watch: Watch | None
) -> dict[str, Any]:
    from medalign.launch.on_ray import train_on_ray

    claim()
    return train_on_ray(recipe, plan, interrupts, watch)


def _in_process(
    recipe: Recipe, plan: RunPlan, claim: Callable[[], bool], interrupts: Interrupts, *, watch: Watch | None
) -> dict[str, Any]:
    from medalign.launch.worker import work
    from medalign.training.session import ProcessSession, process_group

    def batches(start: int) -> Iterator[Any]:
        return plan.stream.plain(0, start=start, stop=plan.total_steps, holes=plan.holes(recipe.run.uri))

    claim()
    with process_group():
        session = ProcessSession(asked=interrupts.is_asked)
        return work(recipe, plan, session, batches, console=watch is None, watch=watch)
