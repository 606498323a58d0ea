"""The driver: a fresh Tuner over what the ledger says is left.

Tune's own files are pickles: they go to a temporary folder that is deleted, and nothing is ever read from there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import ray
import ray.tune

from medalign import cluster
from medalign.tune.packing import Packing
from medalign.tune.schedulers import build_scheduler
from medalign.tune.searching import Book, LedgerSearcher, ToLedger
from medalign.tune.settings import Tune
from medalign.tune.trainable import SweepTrial

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has it
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # checked before the first trial; a failed trial has none
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def connect() -> tuple[dict[str, float], int | None]:
    """Join the cluster, or start a local one; return what it has, and the cores behind a local one's logical CPUs."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    is_local = not os.environ.get("RAY_ADDRESS") and not ray.is_initialized()
    cluster.ensure_ray(dashboard=True)  # without it the workers of a stopped trial are never freed
    return dict(ray.cluster_resources()), len(os.sched_getaffinity(0)) if is_local else None


def run_trials(
    book: Book, work: Any, settings: Tune, packing: Packing, *, total_steps: int, progress: Callable[[str], None]
) -> None:
    """Run trials until the book has no next one."""
    scratch = tempfile.mkdtemp(prefix="medalign-tune-")
    try:
        trainable = ray.tune.with_resources(ray.tune.with_parameters(SweepTrial, work=work), packing.resources)
        ray.tune.Tuner(
            trainable,
            tune_config=ray.tune.TuneConfig(
                search_alg=LedgerSearcher(book),
                scheduler=build_scheduler(settings, total=total_steps),
                num_samples=-1,
                max_concurrent_trials=packing.concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray.tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                callbacks=[ToLedger(book, settings, progress)],
                failure_config=ray.tune.FailureConfig(max_failures=settings.max_failures),
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for trial in list(book.trials.values()):  # whatever Tune dropped without a word
        if trial.state is None:
            book.ended(trial.number, "failed", reason="Ray gave it up; see Ray's logs.")
