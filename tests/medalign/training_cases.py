"""What the ranks of the training rig do: real loops on a small corpus, watched from outside."""

import functools
import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from training_watch import Kept, StopWatch, Watch, WatchedEngine, tensors

from medalign import checkpoint, config
from medalign.checkpoint import TrainState
from medalign.data.settings import Data
from medalign.errors import MedAlignError
from medalign.launch.worker import build_module, validation_batches
from medalign.plan import RunPlan, plan_run
from medalign.recipe import Recipe, Run
from medalign.tracking import Trackers, Tracking
from medalign.training.loop import Loop, LoopPlan
from medalign.training.optimizers import Adam
from medalign.training.schedules import Cosine
from medalign.training.session import ProcessSession
from medalign.training.settings import Train
from medalign_core.models.settings import ResNet, ViT
from medalign_core.objectives.info_nce.settings import InfoNCE
from medalign_core.objectives.lvm_med.settings import LVMMed
from medalign_core.objectives.self_supervised.byol import BYOL
from medalign_core.objectives.self_supervised.moco import MoCo

MODELS = {
    "resnet": ResNet(embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1), layer_type="basic"),
    "vit": ViT(image_size=32, hidden_size=16, layers=1, heads=2, mlp_size=32, dropout=0.2),
}
OBJECTIVES = {
    "lvm_med": LVMMed(
        graph_size=8, neighbours=3, projection_size=16, graph_width=16, graph_dropout=0.3, noise_scale=0.1
    ),
    "info_nce": InfoNCE(projection_size=16),
    "moco": MoCo(projection_size=16, queue_size=30, momentum=0.9, norm_groups=2),
    "byol": BYOL(projection_size=16, momentum=0.9),
}


def recipe_of(
    run: str, corpus: str, *, objective: str = "lvm_med", model: str = "resnet", rate: float = 2e-3, **train: Any
) -> Recipe:
    """Return a small recipe: 8 rows a micro-batch, 2 micro-batches a step, unless `train` says otherwise."""
    settings = {"workers": 0, "micro_batch": 8, "global_batch": 16, "steps": 4, "clip": 0.0} | train
    return Recipe(
        run=Run(uri=run, seed=3),
        data=Data(corpus=corpus, image_size=32, shuffle_rows=32),
        model=MODELS[model],
        objective=OBJECTIVES[objective],
        optimizer=Adam(learning_rate=rate),
        schedule=Cosine(),
        train=Train(**settings),
        tracking=Tracking(log_every=1),
    )


def plan_of(recipe: Recipe, world: int) -> RunPlan:
    """Return the recipe's plan, dealt to `world` ranks."""
    plan = plan_run(seed=recipe.run.seed, data=recipe.data, train=recipe.train, objective=recipe.objective)
    stream = plan.stream
    return RunPlan(
        stream=type(stream)(stream.order, stream.source, stream.data, world),
        validation=plan.validation,
        validation_batches=plan.validation_batches,
        total_steps=plan.total_steps,
        graphs_per_step=plan.graphs_per_step,
    )


def train(
    rank: int,
    world: int,
    *,
    run: str,
    corpus: str,
    stop_at: int | None = None,
    poison: tuple[int, int, str] | None = None,
    resume_from: str | None = None,
    idle: bool = False,
    length: int | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """Train, from `resume_from`'s newest checkpoint if given, and return what was seen.

    Args:
        rank: of this process.
        world: ranks.
        run: the run's URI.
        corpus: its corpus.
        stop_at: the step at which one rank asks all to stop.
        poison: (step, index, "loss" or "gradient"), the micro-batch that is made non-finite.
        resume_from: another run.
        idle: give the module a parameter that no loss depends on.
        length: micro-batches after which the stream ends.
        keys: of recipe_of.
    """
    recipe = recipe_of(run, corpus, **keys)
    plan = plan_of(recipe, world)
    if resume_from:
        _copy_run(resume_from, run, rank)
    module = build_module(recipe)
    watch = Watch(module)
    if idle:
        module.register_parameter("idle", torch.nn.Parameter(torch.arange(3.0)))
    if poison:
        module.forward = functools.partial(_poisoned, module.forward, module, poison)
    engine = _engine(recipe, module, world, watch)
    saved = checkpoint.latest(run)
    if saved:
        checkpoint.load(saved, engine)
    state = saved.state if saved else TrainState(step=0, seed=recipe.run.seed, global_batch=recipe.train.global_batch)
    session = ProcessSession(rank, world)
    tracker = Kept()
    stopper = [StopWatch(session, stop_at)] if rank == world - 1 else []  # one rank asks, all must stop
    batches = itertools.islice(plan.stream.plain(rank, start=state.step, stop=plan.total_steps), length)
    loop = Loop(engine, session, _loop_plan(recipe, plan), trackers=Trackers([tracker, *stopper]))
    result = loop.run(batches, state, validation_batches(plan))
    return {
        "run": run,
        "lines": tracker.lines["train"],
        "validation": tracker.lines["validation"],
        "state": result.state,
        "finished": result.finished,
        "reports": session.reports,
        **watch.seen,
        "tensors": tensors(engine),
        "buffers": {name: value.numpy() for name, value in engine.buffers().items()},
    }


def reload(rank: int, world: int, *, run: str, corpus: str, at: str, **keys: Any) -> dict[str, Any]:
    """Load the newest checkpoint of the run `at` into a fresh engine and return all that is in the engine then."""
    recipe = recipe_of(run, corpus, **keys)
    module = build_module(recipe)
    engine = _engine(recipe, module, world, Watch(module))
    checkpoint.load(_wait_for(at), engine)
    engine.barrier()
    return {
        "tensors": tensors(engine),
        "buffers": {name: value.numpy() for name, value in engine.buffers().items()},
        "optimizer_step": engine.optimizer_step(),
    }


def fail(rank: int, world: int, **arguments: Any) -> tuple[str, str]:
    """Train, which must fail, and return the error's class and text."""
    try:
        train(rank, world, **arguments)
    except MedAlignError as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def _engine(recipe: Recipe, module: torch.nn.Module, world: int, watch: Watch) -> WatchedEngine:
    settings = recipe.train
    engine = WatchedEngine(
        module,
        recipe.optimizer.build(module),
        zero_stage=settings.zero_stage,
        precision=settings.precision,
        micro_batch=settings.micro_batch,
        accumulation=-(-settings.global_batch // settings.micro_batch // world),
        clip=settings.clip,
    )
    engine.watch = watch
    return engine


def _loop_plan(recipe: Recipe, plan: RunPlan) -> LoopPlan:
    return LoopPlan(
        run=recipe.run.uri,
        settings=recipe.train,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.stream.order.steps_per_epoch,
        log_every=1,
        learning_rate=lambda step: recipe.optimizer.learning_rate * recipe.schedule.factor(step, plan.total_steps),
        recipe=config.resolve(recipe),
    )


def _poisoned(forward: Any, module: torch.nn.Module, poison: tuple[int, int, str], batch: Any) -> Any:
    step, index, kind = poison
    loss, stats = forward(batch)
    if (batch.key.step, batch.key.index) != (step, index):
        return loss, stats
    if kind == "loss":
        return loss + float("inf"), stats
    nothing = sum(p.sum() for p in module.parameters()) * 0.0
    return loss + nothing.sqrt(), stats  # finite, but the root's slope at 0 is not


def _copy_run(source: str, run: str, rank: int) -> None:
    _wait_for(source)
    if rank == 0:
        shutil.copytree(Path(source) / "checkpoints", Path(run) / "checkpoints")
    torch.distributed.barrier()


def _wait_for(run: str) -> checkpoint.Saved:
    """Wait for a run's checkpoint that ranks of another world are still writing."""
    end = time.monotonic() + 120
    while (saved := checkpoint.latest(run)) is None:
        assert time.monotonic() < end, f"no checkpoint of {run}"
        time.sleep(0.1)
    return saved


def fail_on_last(
    rank: int, world: int, *, breaks_at: int | None = None, length: int | None = None, **arguments: Any
) -> tuple[str, str, float]:
    """Train until the last rank fails, and with it the others; return the error's class and text, and when it came.

    Args:
        rank: of this process.
        world: ranks.
        breaks_at: the step in which the last rank raises a KeyError.
        length: micro-batches after which the last rank's stream ends.
        arguments: of `train`.
    """
    is_last = rank == world - 1
    forward = WatchedEngine.forward

    def broken(engine: WatchedEngine, batch: Any) -> Any:
        if is_last and batch.key.step == breaks_at:
            raise KeyError("a user's own mistake")
        return forward(engine, batch)

    WatchedEngine.forward = broken  # type: ignore[method-assign]
    try:
        train(rank, world, length=length if is_last else None, **arguments)
    except MedAlignError as error:
        return type(error).__name__, str(error), time.time()
    finally:
        WatchedEngine.forward = forward  # type: ignore[method-assign]
    raise AssertionError("nothing was raised")
