"""A sweep's folder: claimed by one recipe, and what is left there at the end: tables, best recipe, best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from medalign import config, storage
from medalign.errors import RunError
from medalign.tune.judging import best_of, pareto_front
from medalign.tune.result import SweepResult, TrialRecord
from medalign.tune.settings import Tune
from medalign.tune.subject import Subject

RECIPE, BEST, TRIALS, REPORTS, RESULT = "sweep.yaml", "best.yaml", "trials.parquet", "reports.parquet", "result.json"
FREE = {("tune", key) for key in ("trials", "concurrent", "cpus", "gpus", "max_failures", "keep_runs")}
PACKAGES = ("medalign", "ray", "optuna", "torch")


def claim(uri: str, values: Mapping[str, Any]) -> None:
    """Make `uri` the folder of this sweep, or go on with it.

    Raises:
        RunError: another sweep lives there; the first difference is named.
    """
    where = storage.join(uri, RECIPE)
    if storage.exists(where):
        for key, old, new in _differences(yaml.safe_load(storage.read_bytes(where)), values):
            raise RunError(
                f"{uri}: this sweep was started with {key} = {old!r}, now it is {new!r}; choose another tune.uri,"
                " or the same value to go on."
            )
    storage.write_bytes(where, config.dump_yaml(values).encode())


def versions() -> dict[str, str]:
    """Return the versions that a driver works with."""
    return {name: metadata.version(name) for name in PACKAGES}


def finish(settings: Tune, subject: Subject, work: Any, trials: Sequence[TrialRecord]) -> SweepResult:
    """Write what a sweep leaves, and return it."""
    best = best_of(trials, settings)
    notes: list[str] = []
    if best is not None:
        recipe = subject.best_recipe(best.point)
        storage.write_bytes(storage.join(settings.uri, BEST), config.dump_yaml(recipe).encode())
        if work is not None:
            notes = subject.export(work, best.point, best.number, storage.join(settings.uri, "best"))
    write_tables(settings.uri, trials)
    result = SweepResult(
        uri=settings.uri,
        metric=settings.metrics[0],
        trials=tuple(trials),
        best=best.number if best else None,
        value=best.values[settings.metrics[0]] if best else None,
        front=tuple(trial.number for trial in pareto_front(trials, settings)) if len(settings.metrics) > 1 else (),
        notes=tuple(f"best checkpoint: {note}" for note in notes),
    )
    known = {"best": result.best, "value": result.value, "metric": result.metric, "counted": result.counted()}
    storage.write_bytes(storage.join(settings.uri, RESULT), json.dumps(known, indent=1).encode())
    return result


def write_tables(uri: str, trials: Sequence[TrialRecord]) -> None:
    """Write the ledger as two Parquet tables: a row per trial, and a row per report."""
    rows = [
        {
            "trial": trial.number,
            "point": json.dumps(trial.point),
            "state": trial.state,
            "reason": trial.reason,
            "steps": trial.steps,
            "total_steps": trial.total_steps,
            "seconds": trial.seconds,
            "attempts": trial.attempts,
            "values": json.dumps({k: v for k, v in trial.values.items() if v == v}),
        }
        for trial in trials
    ]
    reports = [
        {"trial": trial.number, "step": report.step, "seconds": report.seconds, "figure": name, "value": value}
        for trial in trials
        for report in trial.reports
        for name, value in report.values.items()
    ]
    for name, found, empty in ((TRIALS, rows, "trial"), (REPORTS, reports, "trial")):
        stream = BytesIO()
        table = pa.Table.from_pylist(found) if found else pa.table({empty: pa.array([], pa.int64())})
        pq.write_table(table, stream, compression="zstd")
        storage.write_bytes(storage.join(uri, name), stream.getvalue())


def _differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    if path in FREE:
        return
    if isinstance(old, dict) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), (*path, str(key)))
    elif json.dumps(old, default=list) != json.dumps(new, default=list):
        yield ".".join(path), old, new
