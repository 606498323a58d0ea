"""The Ray cluster of this process: join the one it belongs to, or start a quiet local one."""

from __future__ import annotations

import logging
import os

from medalign.errors import MedAlignError

# Set before Ray starts, so that every worker inherits them; a value the user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # otherwise Ray reports usage to its makers
    "AWS_EC2_METADATA_DISABLED": "true",  # no request to 169.254.169.254 when no credentials are set
    "TOKENIZERS_PARALLELISM": "false",
    # an idle worker stays a minute, not a second: the next window wants it again, and one takes seconds to import
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


def ensure_ray(*, dashboard: bool = False, object_store_bytes: int | None = None) -> None:
    """Connect this process to Ray, once: a second call does nothing.

    RAY_ADDRESS (set inside a submitted job, or by the user) names a cluster to join. Without it a local one is
    started, with at least 4 logical CPUs: training workers ask for fractions, and data tasks need some left over.

    Args:
        dashboard: start the dashboard of a local cluster. Training needs it, since without its State API Ray never
            frees the CPUs of a killed training controller; preparing a corpus does not.
        object_store_bytes: size of a local cluster's object store; Ray's own choice (30 % of memory) if None.
    """
    import ray

    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        num_cpus=max(4, os.cpu_count() or 1),
        include_dashboard=dashboard,
        object_store_memory=object_store_bytes,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def own_error(error: BaseException, *, doing: str) -> MedAlignError:
    """Return our own error that a task raised, however deep Ray has wrapped it.

    A foreign one is named without its text, which may quote what is in a file.

    Args:
        error: what Ray raised.
        doing: what failed, for the message: "preparing the corpus".
    """
    seen = error
    while True:
        # Ray's wrapper is an instance of the class it wraps too, but its text is a whole traceback: look inside first.
        inner = getattr(seen, "cause", None)
        if not isinstance(inner, BaseException) or inner is seen:
            if isinstance(seen, MedAlignError):
                return seen
            inner = seen.__cause__
        if inner is None:
            break
        seen = inner
    return MedAlignError(f"{doing} failed in a task ({type(seen).__name__}); see Ray's logs.")
