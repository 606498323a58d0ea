"""How many trials run at a time, and what each asks of the cluster. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from medalign.errors import PlanError
from medalign.tune.settings import Tune

DRIVER_CPUS = 0.1  # of a trial whose work is done by workers of its own


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a trial's actor asks for, and how many trials are at work together."""

    resources: dict[str, float]
    concurrent: int


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a trial's training asks for: workers of its own (0: it works in the actor), each with CPUs and GPUs."""

    workers: int = 0
    cpus: float = 0.0
    gpus: float = 0.0


def pack(settings: Tune, cluster: Mapping[str, float], *, cores: int | None, demand: Demand) -> Packing:
    """Return how trials are packed on a cluster.

    With `workers: 0` the actor does the work: it asks for tune.cpus and tune.gpus, fractions of which share a core or a
    GPU. With workers of its own a trial's actor only drives; Tune does not reserve what they need, so the number of
    trials is bounded here: each takes workers * cpus and one CPU for data, which every run needs.

    Args:
        settings: of the sweep.
        cluster: its resources, "CPU" and "GPU".
        cores: that a local cluster's logical CPUs stand for; None elsewhere.
        demand: of one trial.

    Raises:
        PlanError: not even one trial has room.
    """
    have_cpus, have_gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if demand.workers:
        need_cpus, need_gpus = demand.workers * demand.cpus + 1 + DRIVER_CPUS, demand.workers * demand.gpus
        resources = {"CPU": DRIVER_CPUS}
    else:
        need_cpus, need_gpus = settings.cpus, settings.gpus
        resources = {"CPU": need_cpus, **({"GPU": need_gpus} if need_gpus else {})}
        have_cpus = min(have_cpus, cores) if cores else have_cpus
    room = math.floor(have_cpus / need_cpus + 1e-9)
    if need_gpus:
        room = min(room, math.floor(have_gpus / need_gpus + 1e-9))
    if room < 1:
        raise PlanError(
            f"one trial needs {need_cpus:g} CPUs and {need_gpus:g} GPUs, the cluster has {have_cpus:g} and"
            f" {have_gpus:g}; lower train.workers, tune.cpus or tune.gpus."
        )
    return Packing(resources=resources, concurrent=min(room, settings.concurrent) if settings.concurrent else room)
