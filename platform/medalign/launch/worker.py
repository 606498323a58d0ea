"""What every worker does, whoever started it: build, load, train, and draw what the report shows."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medalign import build, checkpoint, config, storage
from medalign.checkpoint import TrainState
from medalign.checkpoint.trained_encoder import starting_encoder
from medalign.errors import PlanError
from medalign.multimodal_models import open_multimodal
from medalign.plan import RunPlan
from medalign.recipe import Recipe
from medalign.tracking import Tracker, Trackers, open_trackers
from medalign.tracking.attempts import FINISHED, recording
from medalign.training.contract import Session
from medalign.training.loop import Loop, LoopPlan
from medalign_core.models.multimodal.settings import Llava
from medalign_core.objectives.logra_med.settings import INERT_ACCURACY, AlignedObjective

THUMBNAIL = 96

Batches = Callable[[int], Iterator[Any]]


def work(
    recipe: Recipe,
    plan: RunPlan,
    session: Session,
    batches: Batches,
    *,
    console: bool,
    watch: Tracker | None = None,
) -> dict[str, Any]:
    """Train one rank of a run from its newest checkpoint to the end; every rank returns the same values.

    Args:
        recipe: the resolved recipe.
        plan: its plan.
        session: this rank's surroundings; the process group exists.
        batches: gives this rank's micro-batches from a step on.
        console: show progress in this process.
        watch: is told what the trackers are.
    """
    from medalign.training.engine import Engine

    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    module = build_module(recipe)
    settings, order, world = recipe.train, plan.stream.order, session.world
    engine = Engine(
        module,
        recipe.optimizer.build(module),
        zero_stage=settings.zero_stage,
        precision=settings.precision,
        micro_batch=settings.micro_batch,
        accumulation=-(-order.micro_batches // world),
        clip=settings.clip,
    )
    saved = checkpoint.latest(recipe.run.uri)
    # what was allowed to change has changed from here on
    first = TrainState(step=0, seed=recipe.run.seed, global_batch=settings.global_batch, data=dict(plan.contents))
    state = (
        replace(
            first,
            step=saved.state.step,
            skipped=saved.state.skipped,
            best=saved.state.best,
            averages=saved.state.averages,
        )
        if saved
        else first
    )
    if saved:
        checkpoint.load(saved, engine)
    engine.barrier()
    resolved = config.resolve(recipe)
    loop_plan = LoopPlan(
        run=recipe.run.uri,
        settings=settings,
        total_steps=plan.total_steps,
        steps_per_epoch=order.steps_per_epoch,
        log_every=recipe.tracking.log_every,
        learning_rate=lambda step: recipe.optimizer.learning_rate * recipe.schedule.factor(step, plan.total_steps),
        recipe=resolved,
        inert_accuracy=INERT_ACCURACY if isinstance(recipe.objective, AlignedObjective) else None,
    )
    validation = validation_batches(plan)
    trackers = Trackers()
    if session.rank == 0:
        trackers = open_trackers(
            recipe.tracking,
            recipe.run.uri,
            total_steps=plan.total_steps,
            step=state.step,
            recipe=resolved,
            console=console,
        )
        trackers = Trackers((*trackers.trackers, watch)) if watch else trackers
    noting = recording(recipe.run.uri, world=world, step=state.step, total_steps=plan.total_steps)
    with trackers, noting if session.rank == 0 else nullcontext() as attempt:
        result = Loop(engine, session, loop_plan, trackers=trackers).run(batches(state.step), state, validation)
        if attempt is not None:
            attempt.end(result.reason or FINISHED, step=result.state.step, device=engine.device.type)
    if result.reason is None:  # else there is no time for it
        _draw_matching(recipe, engine.module, validation, is_first=session.rank == 0)
    return {
        "step": result.state.step,
        "skipped": result.state.skipped,
        "best": result.state.best,
        "finished": result.finished,
        "reason": result.reason,
        "last": result.last,
    }


def build_module(recipe: Recipe) -> torch.nn.Module:
    """Return the objective's module, its weights drawn from the run's seed alone."""
    model = _multimodal(recipe) if isinstance(recipe.model, Llava) else _encoder(recipe)
    return build.build_objective(recipe.objective, model, seed=recipe.run.seed)


def _encoder(recipe: Recipe) -> torch.nn.Module:
    return starting_encoder(recipe.model, seed=recipe.run.seed)


def _multimodal(recipe: Recipe) -> torch.nn.Module:
    model = open_multimodal(recipe.model, seed=recipe.run.seed).model
    size = model.network.config.vision_config.image_size
    if recipe.data.image_size != size:
        raise PlanError(f"data.image_size={recipe.data.image_size}, but the model's tower reads {size} px; write that.")
    return model


def validation_batches(plan: RunPlan) -> list[Any]:
    """Return the validation micro-batches, the same at every validation and on every rank."""
    if plan.validation is None:
        return []
    return list(plan.validation.plain(0, start=0, stop=plan.validation_batches))


def _draw_matching(recipe: Recipe, module: torch.nn.Module, batches: list[Any], *, is_first: bool) -> None:
    """Leave the first validation graph and its matching for the report; objectives without graphs leave nothing."""
    match = getattr(module, "match", None)
    if match is None or not batches:
        return
    batch = batches[0].to(next(module.parameters()).device)
    module.eval()
    found = match(batch)  # on every rank: with ZeRO-3 a forward is collective
    module.train()
    if not is_first:
        return
    nodes = found.matching.shape[1]
    first, second = (_thumbnails(batch.images[:nodes, view]) for view in range(2))
    buffer = io.BytesIO()
    affinity = found.vertex_affinity[0].float().cpu().numpy()
    np.savez_compressed(buffer, first=first, second=second, matching=np.asarray(found.matching[0]), affinity=affinity)
    storage.write_bytes(storage.join(recipe.run.uri, "figures", "matching.npz"), buffer.getvalue())


def _thumbnails(images: torch.Tensor) -> np.ndarray:
    size = min(THUMBNAIL, images.shape[-1])
    small = torch.nn.functional.interpolate(images.float(), size=(size, size), mode="area")
    return small.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
