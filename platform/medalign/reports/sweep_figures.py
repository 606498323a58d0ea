"""The figures of a sweep: parallel coordinates, importance, learning curves, a slice per key."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from medalign.reports.drawing import FIRST, GRID, INK, MUTED, SECOND, Canvas
from medalign.tune.importance import Importance
from medalign.tune.result import TrialRecord
from medalign.tune.space import FINITE, Axis

MOST_LETTERS = 26  # of a key under its axis


def short(key: str, keys: Sequence[str]) -> str:
    """Return the end of a dotted key that tells it from the others."""
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        end = ".".join(parts[-count:])
        if sum(other.split(".")[-count:] == parts[-count:] for other in keys) == 1:
            return end
    return key


def parallel(trials: Sequence[TrialRecord], axes: Sequence[Axis], *, metric: str, best: int | None) -> Markup:
    """Draw each trial as a line over its values and its figure; stronger is better, the best has its own colour."""
    keys = [axis.key for axis in axes]
    judged = [trial for trial in trials if math.isfinite(trial.values.get(metric, math.nan))]
    figures = np.array([trial.values[metric] for trial in judged])
    with Canvas("sweep-parallel", width=max(9.5, 1.6 * (len(axes) + 1)), height=3.4) as canvas:
        low, high = (figures.min(), figures.max()) if len(figures) else (0.0, 1.0)
        order = sorted(range(len(judged)), key=lambda place: (judged[place].number == best, figures[place]))
        for place in order:
            trial = judged[place]
            heights = [_height(axis, trial.point[axis.key]) if axis.key in trial.point else math.nan for axis in axes]
            heights.append(0.5 if high == low else (figures[place] - low) / (high - low))
            is_best = trial.number == best
            strength = 1.0 if is_best else 0.12 + 0.5 * heights[-1]
            colour, width = (SECOND, 2.2) if is_best else (FIRST if trial.state == "completed" else MUTED, 1.0)
            canvas.axes.plot(range(len(heights)), heights, color=colour, alpha=strength, linewidth=width)
        for place, axis in enumerate(axes):
            canvas.axes.axvline(place, color=GRID, linewidth=0.8, zorder=0)
            for height, text in _ticks(axis):
                canvas.axes.text(place, height, f" {text}", fontsize=7, color=INK, va="center", ha="left")
        canvas.axes.axvline(len(axes), color=GRID, linewidth=0.8, zorder=0)
        for height, value in ((0.0, low), (1.0, high)):
            canvas.axes.text(len(axes), height, f" {value:.3g}", fontsize=7, color=INK, va="center", ha="left")
        names = [_cut(short(key, keys)) for key in keys] + [metric]
        canvas.axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        canvas.axes.set_yticks([])
        canvas.axes.set_ylim(-0.06, 1.06)
        canvas.axes.set_xlim(-0.15, len(axes) + 0.45)
        canvas.axes.spines["left"].set_visible(False)
        canvas.axes.grid(False)
        return canvas.svg(f"{len(judged)} trials over {len(axes)} keys and {metric}, from {low:.3g} to {high:.3g}.")


def importances(found: Importance, keys: Sequence[str]) -> Markup:
    """Draw the share of each key as a bar."""
    names, shares = list(found.shares), list(found.shares.values())
    with Canvas("sweep-importance", width=5.6, height=0.4 + 0.26 * len(names)) as canvas:
        canvas.axes.barh(range(len(names)), shares, color=FIRST, height=0.6)
        canvas.axes.set_yticks(range(len(names)), [_cut(short(name, keys)) for name in names])
        canvas.axes.invert_yaxis()
        for place, share in enumerate(shares):
            canvas.axes.text(share, place, f" {share:.0%}", va="center", fontsize=8, color=INK)
        canvas.axes.set_xlim(0, 1.18 * max(shares))
        canvas.axes.set_xticks([])
        canvas.axes.grid(False)
        canvas.axes.spines["bottom"].set_visible(False)
        said = ", ".join(f"{name} {share:.0%}" for name, share in found.shares.items())
        return canvas.svg(f"Importance: {said}.")


def learning(trials: Sequence[TrialRecord], *, metric: str, best: int | None) -> Markup:
    """Draw every trial's figure over its steps; a dot is an early stop, the best has its own colour."""
    with Canvas("sweep-curves", width=9.5, height=3.0) as canvas:
        for trial in sorted(trials, key=lambda trial: trial.number == best):
            steps = [report.step for report in trial.reports if metric in report.values]
            values = [report.values[metric] for report in trial.reports if metric in report.values]
            if not steps:
                continue
            is_best, is_stopped = trial.number == best, trial.state == "stopped"
            colour = SECOND if is_best else MUTED if is_stopped else FIRST
            canvas.axes.plot(
                steps,
                values,
                color=colour,
                alpha=1.0 if is_best else 0.45,
                linewidth=2.2 if is_best else 1.0,
                marker="o" if len(steps) == 1 and not is_stopped else "",
                markersize=3,
            )
            if is_stopped:
                canvas.axes.plot(steps[-1:], values[-1:], color=MUTED, marker="o", markersize=3.5, linestyle="")
        canvas.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        canvas.axes.set_xlabel("step")
        canvas.axes.set_ylabel(metric)
        stopped = sum(trial.state == "stopped" for trial in trials)
        return canvas.svg(f"{metric} of {len(trials)} trials over their steps; {stopped} were stopped early.")


def slices(
    trials: Sequence[TrialRecord], axes: Sequence[Axis], *, metric: str, best: int | None
) -> list[dict[str, Any]]:
    """Draw the figure against each key's values."""
    keys = [axis.key for axis in axes]
    return [
        {"title": short(axis.key, keys), "key": axis.key, "svg": _slice(trials, axis, place, metric=metric, best=best)}
        for place, axis in enumerate(axes)
    ]


def _slice(trials: Sequence[TrialRecord], axis: Axis, place: int, *, metric: str, best: int | None) -> Markup:
    seen = [t for t in trials if axis.key in t.point and math.isfinite(t.values.get(metric, math.nan))]
    with Canvas(f"sweep-slice-{place}", width=2.6, height=1.9) as canvas:
        for trial in sorted(seen, key=lambda trial: trial.number == best):
            value = trial.point[axis.key]
            at = axis.values.index(value) if axis.kind in FINITE else value
            filled = trial.state == "completed"
            colour = SECOND if trial.number == best else FIRST if filled else MUTED
            face = colour if filled else "none"
            canvas.axes.plot(
                [at], [trial.values[metric]], marker="o", markersize=5, color=colour, markerfacecolor=face, alpha=0.8
            )
        if axis.kind in FINITE:
            canvas.axes.set_xticks(range(len(axis.values)), [_text(value) for value in axis.values])
            canvas.axes.set_xlim(-0.5, len(axis.values) - 0.5)
        elif axis.kind == "loguniform" or axis.log:
            canvas.axes.set_xscale("log")
        canvas.axes.yaxis.set_major_locator(MaxNLocator(5))
        canvas.axes.set_ylabel(metric)
        return canvas.svg(f"{metric} against {axis.key}, {len(seen)} trials.")


def _height(axis: Axis, value: Any) -> float:
    """Return where a value stands on its axis, in [0, 1]."""
    if axis.kind in FINITE:
        return 0.5 if len(axis.values) == 1 else axis.values.index(value) / (len(axis.values) - 1)
    low, high, at = axis.low, axis.high, float(value)
    if axis.kind == "loguniform" or axis.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if axis.kind in FINITE:
        return [(_height(axis, value), _text(value)) for value in axis.values]
    return [(0.0, f"{axis.low:.3g}"), (1.0, f"{axis.high:.3g}")]


def _text(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value), 14)


def _cut(text: str, most: int = MOST_LETTERS) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"
