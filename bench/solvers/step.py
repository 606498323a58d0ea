"""The table of a whole matching step, features -> affinities -> solve -> gradient, beside a soft relaxation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import clock
from page import Table, milliseconds

sys.path.append(str(Path(__file__).resolve().parents[1]))

import soft_relaxation as steps


def tables(*, rounds: int) -> Iterator[Table]:
    """Time both kinds of our step and the relaxation, by size; the last columns are ratios to the relaxation."""
    rows = []
    noise, solver = steps.Noise(scale=0.05), steps.GraphMatching()
    losses = {
        "soft": steps.soft_loss,
        "factors": partial(steps.matching_loss, solver),
        "noisy": partial(steps.matching_loss, solver, noise=noise),
    }
    for graphs, size in steps.SHAPES:
        views = steps._views(graphs, size)
        edges = [steps.knn_edges(view, steps.NEIGHBOURS) for view in views]
        calls = {name: partial(steps._descend, loss, views, edges) for name, loss in losses.items()}
        seconds = clock.medians(calls, rounds=rounds, budget=10.0)
        rows.append(
            (
                f"{graphs} x {size}",
                *(milliseconds(seconds[name]) for name in losses),
                *(f"{seconds[name] / seconds['soft']:.3g}" for name in ("factors", "noisy")),
            )
        )
    yield Table(
        title="A matching step, features to gradient, beside a soft relaxation (10 x 10 sweeps, unrolled)",
        head=("graphs x nodes", "soft, ms", "factors, ms", "edge noise, ms", "factors / soft", "edge noise / soft"),
        rows=rows,
    )
