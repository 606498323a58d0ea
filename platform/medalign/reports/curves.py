"""The curves of a training run: what it lowered, what it matched, how fast it went, how long it waited for data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy import ndarray

from medalign.reports.drawing import FIRST, MUTED, SECOND, Canvas

_Line = tuple[str, ndarray, ndarray]  # name, steps, values

BINS = 150  # a longer run is drawn as the mean and the range of this many pieces


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure with its heading and a sentence on how to read it."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class _Panel:
    key: str
    title: str
    caption: str
    percent: bool = False
    from_zero: bool = True


_PANELS = (
    _Panel(key="loss", title="Loss", caption="The objective's value, mean over the batch.", from_zero=False),
    _Panel(
        key="matching_accuracy",
        title="Matching accuracy",
        caption="Share of images given their own other view.",
        percent=True,
    ),
    _Panel(
        key="hamming",
        title="Hamming distance",
        caption="Entries of the matching that differ from the identity; 0 is perfect.",
    ),
    _Panel(
        key="embedding_std",
        title="Embedding spread",
        caption="Mean standard deviation of the embeddings; near 0 they have collapsed.",
    ),
    _Panel(key="images_per_second", title="Throughput", caption="Training images per second, all workers together."),
    _Panel(
        key="data_wait",
        title="Waiting for data",
        caption="Share of the time in which training waited for images.",
        percent=True,
    ),
)


def curves(
    train: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]], *, chance: float | None
) -> list[Curve]:
    """Return one figure per quantity that the run recorded.

    Args:
        train: one record per logged step, each with `step`.
        validation: one record per validation, each with `step`.
        chance: the matching accuracy of a blind guess, 1 / nodes; None where the objective matches nothing.
    """
    found = []
    for panel in _PANELS:
        lines = [
            (name, *_series(records, panel.key)) for name, records in (("train", train), ("validation", validation))
        ]
        lines = [line for line in lines if len(line[1])]
        if lines:
            level = chance if panel.key == "matching_accuracy" else None
            found.append(Curve(title=panel.title, caption=panel.caption, svg=_draw(panel, lines, level)))
    return found


def _draw(panel: _Panel, lines: list[_Line], chance: float | None) -> Markup:
    with Canvas(panel.key.replace("_", "-")) as canvas:
        for line in lines:
            _plot(canvas.axes, *line)
        if chance is not None:
            label = f"chance, 1/{round(1 / chance)}"
            canvas.axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=label)
        _scale(canvas.axes, panel, max(values.max() for _, _, values in lines))
        if len(lines) > 1 or chance is not None:
            handles, labels = canvas.axes.get_legend_handles_labels()
            canvas.figure.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=1.6, borderpad=0)
        return canvas.svg(_described(panel, lines))


def _plot(axes: Axes, name: str, steps: ndarray, values: ndarray) -> None:
    colour, marker, above = (FIRST, "", 3) if name == "train" else (SECOND, "o", 4)
    at, mean, low, high = _binned(steps, values)
    if len(at) < len(steps):
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, mean, color=colour, marker=marker if len(at) > 1 else "o", markersize=3.5, label=name, zorder=above)


def _scale(axes: Axes, panel: _Panel, largest: float) -> None:
    if panel.percent:
        axes.set_ylim(0, 1.03 * max(1.0, largest))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif panel.from_zero:
        axes.set_ylim(0, 1.08 * max(largest, 1e-9))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step")
    axes.margins(x=0.02)


def _described(panel: _Panel, lines: list[_Line]) -> str:
    parts = [
        f"{name} from {values[0]:.3g} at step {steps[0]:g} to {values[-1]:.3g} at step {steps[-1]:g}"
        for name, steps, values in lines
    ]
    return f"{panel.title}: {'; '.join(parts)}."


def _series(records: Sequence[dict[str, Any]], key: str) -> tuple[ndarray, ndarray]:
    pairs = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float) and math.isfinite(r[key])]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _binned(steps: ndarray, values: ndarray) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    pieces = min(BINS, len(steps))
    parts = list(zip(np.array_split(steps, pieces), np.array_split(values, pieces), strict=True))
    rows = [(at.mean(), part.mean(), part.min(), part.max()) for at, part in parts]
    at, mean, low, high = np.array(rows).T
    return at, mean, low, high
