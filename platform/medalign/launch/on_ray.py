"""A run on Ray Train: workers under a controller, fed by Ray Data, started again when one fails."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import ray
import ray.train
import ray.train.torch

from medalign import checkpoint, cluster, storage
from medalign.data import stream
from medalign.errors import MedAlignError, PlanError, WorkerError
from medalign.launch.worker import work
from medalign.plan import RunPlan
from medalign.recipe import Recipe
from medalign.tracking.console import Console
from medalign.tracking.json_lines import follow
from medalign.training.session import set_accelerator

COLLECTIVE_TIMEOUT_S = 600
_train: Any = ray.train  # type checkers see the API before Train V2, which is what runs


class RaySession:
    """A Ray Train worker."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()

    def report(self, step: int, values: dict[str, float]) -> None:
        """Report to the controller; a barrier over the ranks."""
        ray.train.report({"step": step, **values})

    def stop_requested(self) -> bool:
        """Ray stops workers itself."""
        return False


def connect(recipe: Recipe) -> None:
    """Join the cluster, or start a local one, and check that it can run a plan without hanging.

    Raises:
        PlanError: the cluster is too small: no CPU is left for data, or GPUs are missing.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    cluster.ensure_ray(dashboard=True)
    _check_resources(recipe)


def train_on_ray(recipe: Recipe, plan: RunPlan) -> dict[str, Any]:
    """Run a plan on the cluster that `connect` joined and return what rank 0 returned.

    Raises:
        MedAlignError: what a worker raised, or the failure of the worker group.
    """
    trainer = _train.torch.TorchTrainer(
        _train_one_rank,
        train_loop_config={"recipe": recipe, "plan": plan},
        datasets={"train": lambda: _remaining(recipe, plan)},
        dataset_config=_train.DataConfig(execution_options=stream.execution_options(), enable_shard_locality=False),
        scaling_config=_train.ScalingConfig(
            num_workers=recipe.train.workers,
            use_gpu=bool(recipe.train.gpus_per_worker),
            resources_per_worker=_worker_resources(recipe),
        ),
        torch_config=_train.torch.TorchConfig(
            backend="nccl" if recipe.train.gpus_per_worker else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        run_config=_run_config(recipe),
    )
    console = Console(total_steps=plan.total_steps, step=_steps_done(recipe), log_every=recipe.tracking.log_every)
    ended = False
    try:
        with follow(recipe.run.uri, console), _interrupts():
            result = trainer.fit()
        ended = True
    except ray.train.TrainingFailedError as error:
        raise _explain(error) from error
    finally:
        console.close(failed=not ended)
    return result.return_value


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Make Ctrl-C what it is everywhere: KeyboardInterrupt. Ray Train's own handler aborts the run, then exits."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ending:
        raise KeyboardInterrupt from ending
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)  # it would stay for the rest of the process


def _train_one_rank(config: dict[str, Any]) -> dict[str, Any]:
    set_accelerator()
    recipe, plan = config["recipe"], config["plan"]
    session = RaySession()
    shard = ray.train.get_dataset_shard("train")

    def batches(start: int) -> Any:
        return stream.receive(shard, plan.stream, rank=session.rank, start=start, stop=plan.total_steps)

    return work(recipe, plan, session, batches, console=False)


def _remaining(recipe: Recipe, plan: RunPlan) -> Any:
    """Return the dataset of the steps that are left: evaluated at each start of the worker group."""
    return stream.training_dataset(plan.stream, start=_steps_done(recipe), stop=plan.total_steps)


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
        failure_config=_train.FailureConfig(max_failures=recipe.train.max_failures, controller_failure_limit=0),
    )


def _check_resources(recipe: Recipe) -> None:
    """Refuse a plan that would hang: data tasks need a CPU that no worker has taken."""
    have = ray.cluster_resources()
    cpus, workers = have.get("CPU", 0.0), recipe.train.workers
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
    return WorkerError(f"training failed in a worker ({type(failure).__name__}).", trace=str(error))


def _first_failure(error: Exception) -> BaseException:
    """Return the failure that explains the others: one that we raised on purpose, else the lowest rank's.

    Where one rank stops, the others fail as well, in the middle of a collective: theirs say nothing.
    """
    inner = getattr(error, "controller_failure", None)
    if isinstance(inner, BaseException):
        return inner
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {0: error}
    ranks = sorted(failures)
    own = [rank for rank in ranks if type(cluster.own_error(failures[rank], doing="training")) is not MedAlignError]
    return failures[(own or ranks)[0]]
