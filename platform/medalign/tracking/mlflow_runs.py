"""MLflow: one MLflow run per run URI, sent in batches from a background thread: a slow server never stops training."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from medalign import storage
from medalign.errors import UserError
from medalign.tracking import Kind
from medalign.tracking.event_files import run_key

EXPERIMENT = "medalign"
_SECONDS, _BATCH = 5.0, 500
_log = logging.getLogger(__name__)


class MLflow:
    """Metrics KIND/NAME and the recipe's keys as parameters, in the experiment `medalign`.

    A resumed run goes on in the same MLflow run, found by its tag `medalign.run`. A step that is trained again after a
    crash is sent again: MLflow keeps both points, which are equal.
    """

    def __init__(self, tracking_uri: str, uri: str, *, recipe: Mapping[str, Any] | None = None):
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._client = MlflowClient(tracking_uri=tracking_uri)
            self._run = _find_or_create(self._client, uri, recipe or {})
        except MlflowException as error:
            cause = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:300]  # a URI may hold a password
            raise UserError(f"tracking.mlflow: the server or store cannot be opened ({cause}).") from error
        self._waiting: list[Any] = []
        self._sent: list[Any] = []
        self._due = time.monotonic() + _SECONDS

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Take the numbers of a step; they are sent every few seconds."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(f"{kind}/{name}", value, now, step) for name, value in values.items()]
        if len(self._waiting) >= _BATCH or time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Hand what was taken to the sender; this does not wait for the server."""
        for batch in _batches(self._waiting, _BATCH):
            self._sent.append(self._client.log_batch(self._run, metrics=batch, synchronous=False))
        self._waiting = []
        self._due = time.monotonic() + _SECONDS

    def close(self, *, failed: bool = False) -> None:
        """Wait for the sender and end the MLflow run. A server that is gone is a warning: metrics.jsonl has it all."""
        from mlflow.exceptions import MlflowException

        self.flush()
        try:
            for operation in self._sent:
                operation.wait()
            self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")
        except MlflowException as error:
            _log.warning("MLflow lacks a part of this run (metrics.jsonl has it): %s", error)


def _find_or_create(client: Any, uri: str, recipe: Mapping[str, Any]) -> str:
    from mlflow.entities import Param

    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    found = client.search_runs([number], filter_string=f"tags.`medalign.run` = '{run_key(uri)}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    where = storage.absolute(uri)
    tags = {"medalign.run": run_key(uri), "medalign.run_uri": where}
    run = client.create_run(number, tags=tags, run_name=where.rstrip("/").rpartition("/")[2]).info.run_id
    for batch in _batches([Param(key, str(value)[:500]) for key, value in _flat(recipe)], 100):
        client.log_batch(run, params=batch)
    return run


def _flat(recipe: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _batches(items: list, size: int) -> Iterator[list]:
    yield from (items[i : i + size] for i in range(0, len(items), size))
