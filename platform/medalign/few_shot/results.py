"""The results of a comparison as values: JSON, and tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from medalign.evaluation.result import nulls, spread
from medalign_core.metrics.intervals import Difference


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method on a test at a number of shots: a metric's mean over seeds, with an interval over seeds and groups."""

    task: str
    test: str
    method: str
    shots: int
    metric: str
    value: Difference


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A paired comparison on the mean over tasks, each by the test that bears its own name, else its first.

    In base-to-new comparisons it is by the classes that were trained on.

    Attributes:
        adjusted: Holm-corrected among the secondary ones; the primary one's p-value as it is.
        verdict: of `method` against `against`: "higher", "lower" or "not distinguishable".
    """

    method: str
    against: str
    shots: int
    metric: str
    role: str
    difference: Difference
    adjusted: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Generalisation:
    """Base and new classes of a method at a number of shots, means over seeds and tasks, and their harmonic mean.

    Two rules are in use and differ by points: published tables mix them.

    Attributes:
        harmonic_of_means: 2 b n / (b + n) of the means `base` and `new` over tasks.
        mean_of_harmonics: the mean over tasks of each task's harmonic mean.
    """

    method: str
    shots: int
    metric: str
    base: float
    new: float
    harmonic_of_means: float
    mean_of_harmonics: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """A table: what every method reached, what differs, and which tasks cannot tell methods apart.

    Attributes:
        overall: the primary metric's mean over tasks, each by the test that counts for it.
        generalisation: of base-to-new comparisons.
        left_out: methods that have no answer to new classes, in such comparisons.
    """

    entries: tuple[Entry, ...]
    overall: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...]
    saturated: tuple[str, ...]
    generalisation: tuple[Generalisation, ...]
    left_out: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    level: float

    def dumps(self) -> str:
        """Return all of it as JSON; NaN becomes null."""
        return json.dumps(nulls(asdict(self)), indent=1, allow_nan=False) + "\n"

    def markdown(self, metric: str = "balanced_accuracy") -> str:
        """Return one metric as tables, one per test, and the comparisons."""
        lines: list[str] = []
        if len({e.task for e in self.entries}) > 1 and self.overall[0].metric == metric:
            lines = self._table(f"Mean over tasks: {metric.replace('_', ' ')}", self.overall)
        for task, test in dict.fromkeys((e.task, e.test) for e in self.entries):
            entries = [e for e in self.entries if (e.task, e.test, e.metric) == (task, test, metric)]
            note = ", saturated" if task in self.saturated else ""
            lines += self._table(f"**{task}**, tested on {test}: {metric.replace('_', ' ')}{note}", entries)
        return "\n".join([*lines, *self._generalisation_lines(), *self._verdict_lines()]) + "\n"

    def _table(self, title: str, entries: Sequence[Entry]) -> list[str]:
        lines = [title, "", "| method | " + " | ".join(f"{s} shot{'s' * (s > 1)}" for s in self.shots) + " |"]
        lines += ["|---|" + "---|" * len(self.shots)]
        for method in dict.fromkeys(e.method for e in entries):
            row = {e.shots: e.value for e in entries if e.method == method}
            lines += [f"| {method} | " + " | ".join(spread(row[s]) for s in self.shots) + " |"]
        return [*lines, ""]

    def _generalisation_lines(self) -> list[str]:
        if not self.generalisation:
            return []
        lines = [f"Base to new: {self.generalisation[0].metric.replace('_', ' ')}, means over tasks and seeds", ""]
        lines += ["| method | shots | base | new | harmonic mean of the means | mean of the harmonic means |"]
        lines += ["|---|---|---|---|---|---|"]
        for g in self.generalisation:
            numbers = (g.base, g.new, g.harmonic_of_means, g.mean_of_harmonics)
            lines += [f"| {g.method} | {g.shots} | " + " | ".join(f"{value:.3f}" for value in numbers) + " |"]
        if self.left_out:
            lines += ["", f"No answer to new classes, what they learn belongs to its own: {', '.join(self.left_out)}."]
        return [*lines, ""]

    def _verdict_lines(self) -> list[str]:
        lines = ["| comparison, mean over tasks | shots | difference | p | verdict |", "|---|---|---|---|---|"]
        for v in self.verdicts:
            name = f"**{v.method} - {v.against}** (primary)" if v.role == "primary" else f"{v.method} - {v.against}"
            lines += [f"| {name} | {v.shots} | {spread(v.difference, sign='+')} | {v.adjusted:.3f} | {v.verdict} |"]
        return lines
