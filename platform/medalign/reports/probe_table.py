"""The probe as a reader needs it: a line per method and head, the declared comparison first, every seed shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from medalign.evaluation.compare import PRIMARY
from medalign.evaluation.result import Comparison, EvaluationResult, Score
from medalign.reports.drawing import FIRST, INK, MUTED, SECOND, Canvas
from medalign_core.metrics.classification import METRICS
from medalign_core.metrics.intervals import FEW_SEEDS

METHODS = {"pretrained": "Pretrained", "random": "Random initialisation", "pixels": "Raw pixels"}
HEADS = {"logistic": "logistic regression", "knn": "k-nearest neighbours"}
_LOOK = {"pretrained": (FIRST, "o"), "random": (SECOND, "s")}
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "auroc": "AUROC",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number with what is known of its spread: an interval by group for one seed, the seeds themselves for more."""

    estimate: str
    spread: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table."""

    method: str
    head: str
    chosen: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A comparison in words and numbers."""

    subject: str
    estimate: str
    interval: str
    points: str
    detectable: str
    p_value: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class ProbeTable:
    """Everything the page says about one evaluation."""

    name: str
    result: EvaluationResult
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    primary: Statement | None
    secondary: tuple[Statement, ...]
    few_seeds: bool
    figure: Markup


def tabulate(name: str, result: EvaluationResult, *, place: int = 0) -> ProbeTable:
    """Return an evaluation as lines, statements and a figure of its primary metric.

    Args:
        name: of the evaluation's folder.
        result: what it holds.
        place: among the page's evaluations; it keeps the figures' ids apart.
    """
    kinds = list(dict.fromkeys((score.head, score.method) for score in result.scores))
    kinds.sort(key=lambda kind: (list(HEADS).index(kind[0]), list(METHODS).index(kind[1])))
    rows = {kind: [s for s in result.scores if (s.head, s.method) == kind] for kind in kinds}
    secondary = [c for c in result.comparisons if c.role == "secondary"]
    most = max((len(c.difference.per_seed) for c in result.comparisons), default=1)
    return ProbeTable(
        name=name,
        result=result,
        columns=tuple(METRIC_NAMES[metric] for metric in METRICS),
        lines=tuple(_line(scores) for scores in rows.values()),
        primary=_state(result.primary) if result.primary else None,
        secondary=tuple(_state(comparison) for comparison in secondary),
        few_seeds=most < FEW_SEEDS,
        figure=_forest(place, rows),
    )


def _line(scores: list[Score]) -> Line:
    symbol = "C" if scores[0].head == "logistic" else "k"
    values = sorted({f"{score.chosen:g}" for score in scores}, key=float)
    return Line(
        method=METHODS[scores[0].method],
        head=HEADS[scores[0].head],
        chosen=f"{symbol} = {', '.join(values)}",
        cells=tuple(_cell(scores, metric) for metric in METRICS),
    )


def _cell(scores: list[Score], metric: str) -> Cell:
    found = [score.metrics[metric] for score in scores]
    mean = float(np.mean([interval.estimate for interval in found]))
    if len(found) == 1:
        return Cell(estimate=_number(mean), spread=_interval(found[0].low, found[0].high))
    return Cell(estimate=_number(mean), spread=" · ".join(_number(interval.estimate) for interval in found))


def _state(comparison: Comparison) -> Statement:
    d = comparison.difference
    subject = f"{METRIC_NAMES[comparison.metric]}, {HEADS[comparison.head]}: "
    subject += f"{METHODS[comparison.method].lower()} − {METHODS[comparison.against].lower()}"
    return Statement(
        subject=subject,
        estimate=_signed(d.estimate),
        interval=_interval(d.low, d.high, signed=True),
        points=" · ".join(_signed(value) for value in d.per_seed),
        detectable=_number(d.minimum_detectable),
        p_value="< 0.001" if comparison.adjusted < 0.001 else f"= {comparison.adjusted:.3f}",
        verdict=comparison.verdict,
    )


def _forest(place: int, rows: dict[tuple[str, str], list[Score]]) -> Markup:
    """Draw the primary metric of every line: the interval by group, and a point per seed."""
    metric = PRIMARY["metric"]
    with Canvas(f"probe-{place}", width=5.6, height=0.55 + 0.34 * len(rows)) as canvas:
        axes, labels = canvas.axes, []
        for y, ((head, method), scores) in enumerate(rows.items()):
            colour, marker = _LOOK.get(method, (MUTED, "D"))
            labels.append(f"{METHODS[method]}, {'logistic' if head == 'logistic' else 'k-NN'}")
            shifts = np.linspace(-0.2, 0.2, len(scores)) if len(scores) > 1 else [0.0]
            for shift, interval in zip(shifts, [score.metrics[metric] for score in scores], strict=True):
                if math.isfinite(interval.low):
                    axes.plot([interval.low, interval.high], [y + shift] * 2, color=colour, linewidth=1.4)
                axes.plot(interval.estimate, y + shift, marker=marker, color=colour, markersize=4.5, linestyle="")
        axes.set_yticks(range(len(labels)), labels, color=INK)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(METRIC_NAMES[metric].lower())
        return canvas.svg(f"{METRIC_NAMES[metric]} of {len(rows)} probes, with intervals; the table holds the numbers.")


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "undefined"


def _interval(low: float, high: float, *, signed: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    form = _signed if signed else _number
    return f"{form(low)} to {form(high)}"
