"""An evaluation on annotated images as a reader needs it: scores, classes, subgroups, calibration and pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from medalign.evaluation.annotated.result import AnnotatedResult, Reliability
from medalign.reports.drawing import FIRST, MUTED, Canvas
from medalign.reports.overlays import Key, Overlay, draw_overlays
from medalign_core.metrics.intervals import Interval

FEW_GROUPS = 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: its name, what stands small below it, and its cells (estimate, interval)."""

    name: str
    note: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class AnnotatedSection:
    """What the template fills in."""

    name: str
    result: AnnotatedResult
    scores: tuple[Row, ...]
    class_head: tuple[str, ...]
    classes: tuple[Row, ...]
    subgroups: tuple[Row, ...]
    points: tuple[Row, ...]
    reliability: Markup | None
    overlays: tuple[Overlay, ...]
    keys: tuple[Key, ...]
    without: str


def tabulate_annotated(name: str, result: AnnotatedResult, *, place: int) -> AnnotatedSection:
    """Return the section of an evaluation; `place` tells figures of several sections apart."""
    overlays, keys, without = draw_overlays(result)
    order = sorted(result.metrics, key=lambda metric: metric != result.primary)
    heads = tuple(sorted(next(iter(result.per_class.values()), {}), key=lambda metric: metric != result.primary))
    return AnnotatedSection(
        name=name,
        result=result,
        scores=tuple(
            Row(name=_words(m), note="primary" if m == result.primary else "", cells=(_cell(result.metrics[m]),))
            for m in order
        ),
        class_head=tuple(_words(head) for head in heads),
        classes=tuple(
            Row(name=each, note="", cells=tuple(_cell(metrics[head]) for head in heads))
            for each, metrics in result.per_class.items()
        )
        if len(result.per_class) > 1
        else (),
        subgroups=tuple(
            Row(
                name=f"{s.attribute}: {s.value}",
                note=f"{s.units:,} {result.units}s of {s.groups:,} groups" + (", few" if s.groups < FEW_GROUPS else ""),
                cells=(_cell(s.score),),
            )
            for s in result.subgroups
        ),
        points=tuple(
            Row(
                name=p.name,
                note=f"threshold {p.threshold:.3f}, chosen for specificity {p.wanted:g}",
                cells=(_cell(p.sensitivity), _cell(p.specificity)),
            )
            for p in result.operating_points
            if p.sensitivity is not None and p.specificity is not None
        ),
        reliability=_draw(result.reliability, place) if result.reliability else None,
        overlays=tuple(overlays),
        keys=tuple(keys),
        without=without,
    )


def _draw(curve: Reliability, place: int) -> Markup:
    """Draw accuracy against confidence; the size of a point is that of its bin."""
    points = [
        (x, y, n)
        for x, y, n in zip(curve.confidence, curve.accuracy, curve.counts, strict=True)
        if x is not None and y is not None
    ]
    most = max((n for _, _, n in points), default=1)
    with Canvas(f"reliability-{place}", width=3.2, height=2.6) as canvas:
        canvas.axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
        canvas.axes.plot(xs, ys, color=FIRST)
        canvas.axes.scatter(xs, ys, s=[8 + 60 * n / most for _, _, n in points], color=FIRST)
        canvas.axes.set_xlim(0, 1)
        canvas.axes.set_ylim(0, 1)
        canvas.axes.set_xlabel("confidence")
        canvas.axes.set_ylabel("accuracy")
        return canvas.svg(f"Accuracy against confidence in {len(points)} bins; calibrated is the diagonal.")


def _words(metric: str) -> str:
    known = {
        "iou": "IoU",
        "ap": "AP",
        "ap50": "AP50",
        "auroc": "AUROC",
        "ece": "ECE",
        "hd95": "HD95",
        "macro_f1": "macro F1",
    }
    return known.get(metric, metric.replace("_", " ").replace("auroc", "AUROC"))


def _cell(value: Interval) -> tuple[str, str]:
    if not math.isfinite(value.estimate):
        return "undefined", ""
    spread = f"{value.low:.3f} to {value.high:.3f}" if math.isfinite(value.low) else "no interval"
    return f"{value.estimate:.3f}", spread
