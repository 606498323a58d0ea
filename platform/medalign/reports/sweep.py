"""write_sweep(uri): one self-contained HTML page of a sweep, written beside its ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from medalign import config, storage
from medalign.errors import RunError
from medalign.reports import sweep_figures
from medalign.tune import folder
from medalign.tune.importance import importance
from medalign.tune.judging import best_of, pareto_front
from medalign.tune.ledger import read_events, trials_of
from medalign.tune.result import TrialRecord
from medalign.tune.settings import Root, Tune
from medalign.tune.space import Space, read_space

FILE_NAME = "report.html"


def write_sweep(uri: str) -> str:
    """Write a sweep's page to `<uri>/report.html` and return where it is.

    It can be written at any time, also of a sweep that is under way, and holds everything it shows.

    Raises:
        RunError: no sweep is there.
        StorageError: the place cannot be read or written.
    """
    uri = storage.absolute(uri)
    where = storage.join(uri, folder.RECIPE)
    if not is_sweep(uri):
        raise RunError(f"{uri}: no sweep is here; give the tune.uri of one.")
    document = config.load(where)
    settings = config.build(Root, document.only("tune")).tune
    events = read_events(uri)
    best = storage.join(uri, folder.BEST)
    recipe = storage.read_bytes(best).decode() if storage.exists(best) else ""
    page = render(settings, read_space(document), trials_of(events), events=events, recipe=recipe, name=uri)
    target = storage.join(uri, FILE_NAME)
    storage.write_bytes(target, page.encode())
    return target


def is_sweep(uri: str) -> bool:
    """Tell whether a sweep lives at a place."""
    return storage.exists(storage.join(storage.absolute(uri), folder.RECIPE))


def render(
    settings: Tune,
    space: Space,
    trials: Sequence[TrialRecord],
    *,
    events: Sequence[dict[str, Any]] = (),
    recipe: str = "",
    name: str = "",
) -> str:
    """Return the page as HTML. Whatever comes from the sweep is escaped."""
    environment = Environment(
        loader=PackageLoader("medalign.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metric, best = settings.metrics[0], best_of(trials, settings)
    number = best.number if best else None
    keys = [axis.key for axis in space.axes]
    found = importance(trials, space, metric=metric)
    judged = [trial for trial in trials if math.isfinite(trial.values.get(metric, math.nan))]
    drawn: dict[str, Any] = {"metric": metric, "best": number}
    return environment.get_template("sweep.html.j2").render(
        title=name.rstrip("/").rpartition("/")[2] or "sweep",
        uri=name,
        settings=settings,
        metric=metric,
        sampler=_named(settings.sampler),
        scheduler=_named(settings.scheduler),
        tiles=_tiles(trials, settings, best),
        best=best,
        changed=[(key, json.dumps(value)) for key, value in best.point.items()] if best else [],
        recipe=recipe,
        front=_front(trials, settings),
        parallel=sweep_figures.parallel(trials, space.axes, **drawn) if judged else None,
        importance=sweep_figures.importances(found, keys) if found else None,
        found=found,
        curves=sweep_figures.learning(trials, **drawn) if any(len(t.reports) > 1 for t in trials) else None,
        slices=sweep_figures.slices(trials, space.axes, **drawn) if judged else [],
        cost=cost(trials, settings),
        failed=[(t.number, _said(t), t.reason, t.attempts) for t in trials if t.state == "failed"],
        trials=[_row(trial, settings) for trial in _ranked(trials, settings)],
        notes=[event["text"] for event in events if event["event"] == "note"],
        versions=next((event["versions"] for event in reversed(list(events)) if event["event"] == "begun"), {}),
    )


def cost(trials: Sequence[TrialRecord], settings: Tune) -> dict[str, float]:
    """Return what a sweep cost and what its scheduler saved.

    `saved` is the share of the steps that running all its completed and stopped trials to the end would have taken.
    """
    seconds = sum(trial.seconds for trial in trials)
    whole = [trial for trial in trials if trial.state in ("completed", "stopped") and trial.total_steps]
    to_the_end, taken = sum(t.total_steps for t in whole), sum(t.reports[-1].step for t in whole if t.reports)
    return {
        "seconds": seconds,
        "cpu_hours": seconds * settings.cpus / 3600,
        "gpu_hours": seconds * settings.gpus / 3600,
        "steps": float(taken),
        "to_the_end": float(to_the_end),
        "saved": 1 - taken / to_the_end if to_the_end else 0.0,
        "lost": sum(trial.seconds for trial in trials if trial.state == "failed"),
    }


def _tiles(trials: Sequence[TrialRecord], settings: Tune, best: TrialRecord | None) -> list[dict[str, str]]:
    counted = {state: sum(t.state == state for t in trials) for state in ("completed", "stopped", "failed")}
    open_ = sum(trial.state is None for trial in trials)
    spent = cost(trials, settings)
    found = (
        [{"value": f"{best.values[settings.metrics[0]]:.4g}", "name": f"best {settings.metrics[0]}"}] if best else []
    )
    found += [{"value": str(count), "name": f"trials {state}"} for state, count in counted.items() if count]
    found += [{"value": str(open_), "name": "trials not ended"}] if open_ else []
    found.append({"value": _time(spent["seconds"]), "name": "of work, all trials together"})
    if counted["stopped"]:
        found.append({"value": f"{spent['saved']:.0%}", "name": "of the steps saved by early stops"})
    return found


def _front(trials: Sequence[TrialRecord], settings: Tune) -> list[tuple[int, list[str], str]]:
    if len(settings.metrics) < 2:
        return []
    return [
        (trial.number, [f"{trial.values[name]:.4g}" for name in settings.metrics], _said(trial))
        for trial in pareto_front(trials, settings)
    ]


def _ranked(trials: Sequence[TrialRecord], settings: Tune) -> list[TrialRecord]:
    """Completed ones first, the best at the head; then those stopped, failed and not ended."""
    sign, name = (-1 if settings.modes[0] == "max" else 1), settings.metrics[0]
    order = {"completed": 0, "stopped": 1, "failed": 2, None: 3}

    def place(trial: TrialRecord) -> tuple[int, float, int]:
        value = trial.values.get(name, math.nan)
        return order[trial.state], sign * value if math.isfinite(value) else math.inf, trial.number

    return sorted(trials, key=place)


def _row(trial: TrialRecord, settings: Tune) -> dict[str, Any]:
    figures = [trial.values.get(name, math.nan) for name in settings.metrics]
    return {
        **asdict(trial),
        "said": _said(trial),
        "figures": [f"{value:.4g}" if math.isfinite(value) else "–" for value in figures],
        "time": _time(trial.seconds),
    }


def _said(trial: TrialRecord) -> str:
    keys = list(trial.point)
    parts = []
    for key, value in trial.point.items():
        shown = f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        parts.append(f"{sweep_figures.short(key, keys)}={shown}")
    return ", ".join(parts)


def _named(settings: Any) -> str:
    known = {key: value for key, value in asdict(settings).items()}
    inner = yaml.safe_dump(known, default_flow_style=True, sort_keys=False).strip(" {}\n") if known else ""
    return f"{type(settings).__name__}({inner})" if inner else type(settings).__name__


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
