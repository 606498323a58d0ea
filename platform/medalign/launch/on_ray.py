"""A run on Ray Train: workers under a controller, fed by Ray Data, started again when one fails."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medalign import checkpoint, cluster, storage
from medalign.data import stream
from medalign.data.batches import BatchStream
from medalign.errors import MedAlignError, PeerError, PlanError, StoppedError, WorkerError
from medalign.launch import elastic
from medalign.launch.interrupts import Interrupts
from medalign.launch.watching import Watch
from medalign.launch.worker import work
from medalign.plan import RunPlan
from medalign.recipe import Recipe
from medalign.tracking.console import Console
from medalign.tracking.json_lines import follow
from medalign.training.contract import Reason
from medalign.training.session import set_accelerator

COLLECTIVE_TIMEOUT_S = 600
NODES_WITHIN_S = 1800  # that an autoscaler has for starting the nodes of a run; one with GPUs takes minutes
LOOK_EVERY_S = 1.0  # at which rank 0 asks Ray for preemptions
_log = logging.getLogger(__name__)
_train: Any = ray.train  # type checkers see the API before Train V2, which is what runs


class RaySession:
    """A Ray Train worker. Rank 0 watches for the driver's wish to stop, and asks Ray in turns whether a node goes."""

    def __init__(self, wishes: Any) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self._wish = wishes.wait.remote() if self.rank == 0 else None
        self._look_at = time.monotonic() + LOOK_EVERY_S

    def report(self, step: int, values: dict[str, float]) -> None:
        """Report to the controller; a barrier over the ranks."""
        ray.train.report({"step": step, **values})

    def stop_requested(self) -> bool:
        """Tell whether the driver wants to stop, or it is time to ask Ray for preemptions."""
        return self._is_wished() or (self.rank == 0 and time.monotonic() >= self._look_at)

    def stop_reason(self, any_rank: Callable[[bool], bool]) -> Reason | None:
        """Ask; a barrier over the ranks."""
        self._look_at = time.monotonic() + LOOK_EVERY_S
        if any_rank(self._is_wished()):
            return "asked"
        return "preempted" if any_rank(ray.train.get_preemption_info() is not None) else None

    def _is_wished(self) -> bool:
        if self._wish is None or not ray.wait([self._wish], timeout=0)[0]:
            return False
        try:
            ray.get(self._wish)
        except ray.exceptions.RayActorError:  # the driver's node is gone, which is no wish
            self._wish = None
            return False
        return True


class Wishes:
    """An actor: the driver wishes to stop, rank 0 hears of it."""

    def __init__(self) -> None:
        self._wished = asyncio.Event()
        self._is_heard = False

    async def wait(self) -> None:
        """End when the wish comes."""
        self._is_heard = True
        await self._wished.wait()

    async def stop(self) -> bool:
        """Wish to stop; tell whether anybody is there to hear it."""
        self._wished.set()
        return self._is_heard


def connect(recipe: Recipe) -> None:
    """Join the cluster, or start a local one, and check that it can run a plan without hanging.

    Raises:
        PlanError: the cluster is too small: no CPU is left for data, or GPUs are missing.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")  # a notice may give no more than seconds
    cluster.ensure_ray(dashboard=True)
    have = cluster.most_resources()
    _check_resources(recipe, have)
    if have != ray.cluster_resources() and not recipe.train.min_workers:  # with a range, Ray waits without a limit
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(NODES_WITHIN_S))


def train_on_ray(recipe: Recipe, plan: RunPlan, interrupts: Interrupts, watch: Watch | None = None) -> dict[str, Any]:
    """Run a plan on the cluster that `connect` joined and return what rank 0 returned.

    Workers that end because a node will be taken away leave a checkpoint; new ones go on elsewhere at once, and it
    does not count as a failure.

    Raises:
        StoppedError: a signal came before any worker had begun.
        MedAlignError: what a worker raised, or the failure of the worker group.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Wishes)
    wishes = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    shown = watch or Console(
        total_steps=plan.total_steps, step=_steps_done(recipe), log_every=recipe.tracking.log_every
    )
    ended = False
    try:
        with follow(recipe.run.uri, shown):
            values = _fit(_trainer(recipe, plan, wishes), wishes, interrupts)
            while values["reason"] == "preempted":
                _log.warning("%s: a node goes; saved after step %d, going on.", recipe.run.uri, values["step"])
                values = _fit(_trainer(recipe, plan, wishes), wishes, interrupts)
        ended = True
    except ray.train.TrainingFailedError as error:
        raise _explain(error) from error
    except (KeyboardInterrupt, StoppedError):
        ray.shutdown()  # what is left of the run must not work on without its lock
        raise
    finally:
        shown.close(failed=not ended)
        if ray.is_initialized():
            ray.kill(wishes)
    return values


def _trainer(recipe: Recipe, plan: RunPlan, wishes: Any) -> Any:
    return _train.torch.TorchTrainer(
        _train_one_rank,
        train_loop_config={"recipe": recipe, "plan": plan, "wishes": wishes},
        datasets={"train": stream.placeholder},
        dataset_config=elastic.Dealing(partial(_remaining, recipe, plan)),
        scaling_config=_train.ScalingConfig(
            num_workers=elastic.worker_range(recipe.train),
            elastic_resize_monitor_interval_s=elastic.LOOK_EVERY_S,
            use_gpu=bool(recipe.train.gpus_per_worker),
            resources_per_worker=_worker_resources(recipe),
        ),
        torch_config=_train.torch.TorchConfig(
            backend="nccl" if recipe.train.gpus_per_worker else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        run_config=_run_config(recipe),
    )


def _fit(trainer: Any, wishes: Any, interrupts: Interrupts) -> dict[str, Any]:
    """Run a trainer in a thread of its own, so that this one stays awake for signals, and return its value."""
    fitted: Future[Any] = Future()

    def fit() -> None:
        try:
            fitted.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            fitted.set_exception(error)

    threading.Thread(target=fit, name="medalign-fit", daemon=True).start()
    is_told = False
    while not wait([fitted], timeout=0.1).done:
        if interrupts.is_asked() and not is_told:
            is_told = True
            if not ray.get(wishes.stop.remote()) and interrupts.received:
                raise StoppedError(
                    f"stopped by {interrupts.received.name} before its first step; the same command goes on.",
                    exit_code=128 + interrupts.received,
                )
    return fitted.result().return_value


def _train_one_rank(config: dict[str, Any]) -> dict[str, Any]:
    set_accelerator()
    recipe, plan = config["recipe"], config["plan"]
    session = RaySession(config["wishes"])
    shard = ray.train.get_dataset_shard("train")

    def batches(start: int) -> Any:
        span = {"start": start, "stop": plan.total_steps}
        dealt = _dealt(plan, session.world)
        return stream.receive(shard, dealt, rank=session.rank, **span, holes=plan.holes(recipe.run.uri))

    result = work(recipe, plan, session, batches, console=False)
    if session.rank == 0:
        stream.write_statistics(shard, recipe.run.uri)
    return result


def _remaining(recipe: Recipe, plan: RunPlan, world: int) -> Any:
    """Return the dataset of the steps that are left, for a number of workers: made at each start of a worker group."""
    return stream.training_dataset(_dealt(plan, world), start=_steps_done(recipe), stop=plan.total_steps)


def _dealt(plan: RunPlan, world: int) -> BatchStream:
    return replace(plan.stream, world=world)


def _steps_done(recipe: Recipe) -> int:
    saved = checkpoint.latest(recipe.run.uri)
    return saved.state.step if saved else 0


def _worker_resources(recipe: Recipe) -> dict[str, float]:
    resources = {"CPU": recipe.train.cpus_per_worker}
    if recipe.train.gpus_per_worker:
        resources["GPU"] = recipe.train.gpus_per_worker
    return resources


def _run_config(recipe: Recipe) -> Any:
    filesystem, path = storage.resolve(storage.join(recipe.run.uri, "ray"))
    return _train.RunConfig(
        name=f"attempt-{uuid.uuid4().hex[:8]}",  # Ray's own resume is not used: ours is exact
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=_train.FailureConfig(
            max_failures=recipe.train.max_failures, controller_failure_limit=elastic.patience(recipe.train)
        ),
    )


def _check_resources(recipe: Recipe, have: Mapping[str, float]) -> None:
    """Refuse a plan that would hang: data tasks need a CPU that no worker has taken.

    Args:
        recipe: of the run.
        have: what the cluster has, or may grow to.
    """
    cpus, workers = have.get("CPU", 0.0), recipe.train.min_workers or recipe.train.workers
    taken = workers * recipe.train.cpus_per_worker
    if cpus - taken < 1:
        raise PlanError(
            f"train.workers={workers} with train.cpus_per_worker={recipe.train.cpus_per_worker} take {taken:g} of the"
            f" cluster's {cpus:g} CPUs and leave none for data; lower one of them."
        )
    gpus = have.get("GPU", 0.0)
    if workers * recipe.train.gpus_per_worker > gpus:
        raise PlanError(
            f"train.workers={workers} with train.gpus_per_worker={recipe.train.gpus_per_worker} need more than the"
            f" cluster's {gpus:g} GPUs; lower train.workers, or set train.gpus_per_worker=0 to train on CPUs."
        )


def _explain(error: Exception) -> MedAlignError:
    failure = _first_failure(error)
    own = cluster.own_error(failure, doing="training")
    if type(own) is not MedAlignError:
        return own
    ranks = [rank for rank, found in (getattr(error, "worker_failures", None) or {}).items() if found is failure]
    where = f"on rank {ranks[0]}" if ranks else "in a worker"
    return WorkerError(f"training failed {where} ({type(failure).__name__}).", trace=str(error))


def _first_failure(error: Exception) -> BaseException:
    """Return the failure that explains the others: one that we raised on purpose, else the lowest rank's.

    Where one rank stops, the others fail as well, in the middle of a collective: theirs say nothing (PeerError).
    """
    inner = getattr(error, "controller_failure", None)
    if isinstance(inner, BaseException):
        return inner
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {0: error}

    def says_little(rank: int) -> int:
        own = cluster.own_error(failures[rank], doing="training")
        return 2 if isinstance(own, PeerError) else int(type(own) is MedAlignError)

    return failures[min(sorted(failures), key=says_little)]
