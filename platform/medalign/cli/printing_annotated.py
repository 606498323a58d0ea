"""What `medalign evaluate` prints of a run on annotated images: scores, classes, subgroups, operating points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medalign.cli.printing import show_line, show_table
from medalign.evaluation.result import spread

if TYPE_CHECKING:
    from medalign.evaluation.annotated.result import AnnotatedResult


def show_annotated(result: AnnotatedResult) -> None:
    """Print the scores of an evaluation, with the worst subgroup of each attribute first."""
    order = sorted(result.metrics, key=lambda name: name != result.primary)
    show_table(
        ("metric", f"{100 * result.level:g} % interval"), [(name, spread(result.metrics[name])) for name in order]
    )
    if len(result.per_class) > 1:
        names = list(next(iter(result.per_class.values())))
        rows = [(name, *(spread(each[n]) for n in names[:2])) for name, each in result.per_class.items()]
        show_table(("class", *names[:2]), rows)
    if result.subgroups:
        rows = [
            (f"{s.attribute}: {s.value}", f"{s.units:,}", f"{s.groups:,}", spread(s.score)) for s in result.subgroups
        ]
        show_table(("subgroup", f"{result.units}s", "groups", result.primary), rows)
    if result.operating_points:
        rows = [
            (point.name, f"{point.threshold:.3f}", spread(point.sensitivity), spread(point.specificity))
            for point in result.operating_points
            if point.sensitivity is not None and point.specificity is not None
        ]
        wanted = result.operating_points[0].wanted
        show_table(("class", f"threshold for {wanted:g}", "sensitivity", "specificity"), rows)
    for note in result.notes:
        show_line(f"note: {note}")
    show_line(f"{result.count:,} {result.units}s of {result.groups:,} groups: {result.uri}")
