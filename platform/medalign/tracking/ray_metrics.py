"""A run's numbers as Ray's metrics, which Prometheus scrapes from every node: one series per run and name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medalign.tracking import Kind

PREFIX = "medalign"
GAUGES = {
    "loss": "Training loss, mean since the line before.",
    "images_per_second": "Training samples per second, all workers together.",
    "data_wait": "Share of training time spent waiting for data, in [0, 1].",
    "matching_accuracy": "Share of nodes matched with their own, in training.",
    "gradient_norm": "Global norm of the gradient before clipping.",
    "learning_rate": "Learning rate of the last step.",
    "epoch": "Passes over the corpus.",
    "skipped": "Steps kept from the optimizer because they were not finite.",
}
SOLVER = "solver_seconds"  # a mean over micro-batches
SOLVER_BORDERS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]


class RayMetrics:
    """Publishes the numbers of rank 0; a name that a step lacks keeps its last value.

    `medalign_step` is a gauge, `medalign_steps_total` and `medalign_events_total` are counters, and
    `medalign_solver_seconds` is a histogram. Validation figures are gauges named `medalign_validation_NAME`. Each has
    the tag `run`: the last part of the run's URI, and a hash of the whole.
    """

    def __init__(self, uri: str, *, step: int = 0) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        from medalign.tracking.event_files import run_key

        self._tags = {"run": f"{uri.rstrip('/').rsplit('/', 1)[-1]}-{run_key(uri)}"}
        self._step, self._kind = step, Gauge
        self._gauges: dict[str, Any] = {}
        self._steps = Counter(f"{PREFIX}_steps_total", "Optimizer steps done by this attempt.", tag_keys=("run",))
        self._events = Counter(f"{PREFIX}_events_total", "Events that a reader should know of.", tag_keys=("run",))
        self._solver = Histogram(
            f"{PREFIX}_{SOLVER}", "Solving and its gradient, a micro-batch.", SOLVER_BORDERS, tag_keys=("run",)
        )

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Publish the numbers of a step."""
        if kind == "event":
            self._events.inc(1, tags=self._tags)
            return
        if kind == "validation":
            for name, value in values.items():
                self._set(f"validation_{name}", value, f"{name} on the validation split.")
            return
        if step > self._step:
            self._steps.inc(step - self._step, tags=self._tags)
            self._step = step
        self._set("step", step, "Optimizer steps done.")
        for name, about in GAUGES.items():
            if name in values:
                self._set(name, values[name], about)
        if SOLVER in values:
            self._solver.observe(max(values[SOLVER], 0.0), tags=self._tags)

    def flush(self) -> None:
        """Do nothing: Ray's agent on the node collects."""

    def close(self, *, failed: bool = False) -> None:
        """Do nothing: the series end with the process."""

    def _set(self, name: str, value: float, about: str) -> None:
        if name not in self._gauges:
            self._gauges[name] = self._kind(f"{PREFIX}_{name}", about, tag_keys=("run",))
        self._gauges[name].set(value, tags=self._tags)
