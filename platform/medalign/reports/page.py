"""report(run): one self-contained HTML page of a run, written beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from medalign import storage
from medalign.reports.annotated_table import tabulate_annotated
from medalign.reports.curves import curves
from medalign.reports.matching import draw_affinity, draw_matching
from medalign.reports.planned import planned
from medalign.reports.probe_table import tabulate
from medalign.reports.run_files import RunFiles, read
from medalign.tracking.events import sentence

FILE_NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number of the head of the page."""

    value: str
    name: str


def report(run: str) -> str:
    """Write a run's page to `<run>/report.html` and return where it is.

    The page holds everything it shows: no script, no address outside itself. It can be written at any time, also of a
    run that is under way or has failed.

    Args:
        run: the run's URI.

    Raises:
        RunError: no run there, or a file of it that cannot be understood.
        StorageError: the place cannot be read or written.
    """
    where = storage.join(storage.absolute(run), FILE_NAME)
    storage.write_bytes(where, render(read(run)).encode())
    return where


def render(run: RunFiles) -> str:
    """Return the page as HTML. Whatever comes from the run is escaped."""
    environment = Environment(
        loader=PackageLoader("medalign.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("run.html.j2").render(
        title=str(run.get("run.name") or run.uri.rstrip("/").rpartition("/")[2]),
        uri=run.uri,
        head=_head(run),
        warnings=_warnings(run),
        tiles=_tiles(run),
        curves=curves(run.train, run.validation, chance=_chance(run)),
        matching=_matching(run),
        probes=[tabulate(*entry, place=place) for place, entry in enumerate(run.evaluations.items())],
        annotated=[tabulate_annotated(*entry, place=place) for place, entry in enumerate(run.annotated.items())],
        planned=planned(run),
        events=_events(run),
        recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True),
        versions=_versions(run.environment),
    )


def _head(run: RunFiles) -> dict[str, str]:
    environment = run.environment
    model = run.get("model.type") or run.get("model.backbone") or run.get("model.source")
    entries = {
        "Corpus": run.get("data.corpus"),
        "Objective": run.get("objective.type"),
        "Encoder": model if isinstance(model, str) else None,
        "Started": _moment(environment.get("started")),
        "Seed": run.get("run.seed"),
        "Workers": run.get("train.workers"),
        "Global batch": run.get("train.global_batch"),
        "MedAlign": _versions(environment).get("medalign"),
    }
    return {name: str(value) for name, value in entries.items() if value is not None}


def _versions(environment: dict[str, Any]) -> dict[str, str]:
    """Return the machine and the packages' versions as one table."""
    packages = environment.get("packages")
    flat = {name: value for name, value in environment.items() if not isinstance(value, dict | list)}
    return {str(k): str(v) for k, v in {**(packages if isinstance(packages, dict) else {}), **flat}.items()}


def _moment(value: Any) -> str | None:
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return None if value is None else str(value)


def _warnings(run: RunFiles) -> list[str]:
    """Say what a reader must know before the numbers."""
    found = list(run.notes)
    if allowed := run.get("data.allow_splits"):
        names = ", ".join(map(str, allowed)) if isinstance(allowed, list | tuple) else str(allowed)
        found.append(f"This run was allowed to train on other splits ({names}): its scores on them prove nothing.")
    told = (sentence(name, value) for event in run.events for name, value in event.items())
    found += [f"{said[0].upper()}{said[1:]}" for said in told if said]
    if skipped := max(_numbers(run.train, "skipped"), default=0):  # a running count
        found.append(f"Optimizer steps skipped because of a loss or gradient that was not finite: {skipped:,.0f}.")
    if holes := _holes(run):
        found.append(f"Images that could not be read, left out of the loss: {holes:,}.")
    if not run.train:
        found.append("No training step was recorded yet.")
    return found


def _holes(run: RunFiles) -> int:
    """Return how many holes were trained on; a line holds their mean per micro-batch since the line before it."""
    total, before = 0.0, 0
    for record in run.train:
        if isinstance(record.get("holes"), int | float):
            total += record["holes"] * (record["step"] - before)
        before = record["step"]
    return round(total * run.get("train.global_batch", 1) / run.get("train.micro_batch", 1))


def _numbers(records: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(r[key]) for r in records if isinstance(r.get(key), int | float) and math.isfinite(r[key])]


def _tiles(run: RunFiles) -> list[Tile]:
    """Return the numbers of the head; what was not recorded has no tile."""
    numbers = (
        ("steps", _numbers(run.train, "step")[-1:], "{:,.0f}"),
        ("matching accuracy, held out", _numbers(run.validation, "matching_accuracy")[-1:], "{:.1%}"),
        ("loss, last step", _numbers(run.train, "loss")[-1:], "{:.3g}"),
        ("embedding spread, held out", _numbers(run.validation, "embedding_std")[-1:], "{:.3g}"),
        ("images per second, median", _median(_numbers(run.train, "images_per_second")), "{:,.3g}"),
        ("waiting for data, median", _median(_numbers(run.train, "data_wait")), "{:.0%}"),
    )
    return [Tile(value=form.format(values[0]), name=name) for name, values, form in numbers if values]


def _median(values: list[float]) -> list[float]:
    return [float(np.median(values))] if values else []


def _chance(run: RunFiles) -> float | None:
    nodes = run.get("objective.graph_size") or (len(run.matching.matching) if run.matching else None)
    return 1 / nodes if isinstance(nodes, int) and nodes > 1 else None


def _matching(run: RunFiles) -> dict[str, Any] | None:
    if run.matching is None:
        return None
    nodes = len(run.matching.matching)
    right = int((run.matching.matching == np.arange(nodes)).sum())
    return {
        "nodes": nodes,
        "right": right,
        "views": draw_matching(run.matching),
        "affinity": draw_affinity(run.matching),
        "low": float(run.matching.affinity.min()),
        "high": float(run.matching.affinity.max()),
    }


def _events(run: RunFiles) -> list[dict[str, Any]]:
    """Return each kind of event with how often it came and the step of the last one."""
    named = [(name, event.get("step")) for event in run.events for name in _names(event)]
    counts, latest = Counter(name for name, _ in named), dict(named)
    return [{"name": name, "count": count, "step": latest[name]} for name, count in counts.items()]


def _names(event: dict[str, Any]) -> list[str]:
    """Return what an event is called: the value of `event`, or the names of the numbers it carries."""
    if "event" in event:
        return [str(event["event"])]
    return [name for name in event if name not in ("step", "kind")]
