"""The results of a comparison of pretraining objectives as values: JSON, and tables in Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from medalign.evaluation.result import nulls, spread
from medalign.pretraining.settings import LINEAR, METRIC, NEAREST
from medalign_core.metrics.intervals import Difference

AUROC = "auroc"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method's head on a test: a metric's mean over seeds, with an interval over seeds and groups."""

    task: str
    test: str
    method: str
    head: str
    metric: str
    value: Difference


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A paired comparison of two methods' linear probes on one test, by balanced accuracy.

    Attributes:
        role: "primary", declared in the recipe, or "secondary".
        adjusted: Holm-corrected among the secondary ones; the primary one's p-value as it is.
        verdict: of `method` against `against`: "higher", "lower" or "not distinguishable".
    """

    method: str
    against: str
    task: str
    test: str
    role: str
    difference: Difference
    adjusted: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an arm took and left on a task, means over seeds: CPU seconds, spread of the frozen features."""

    task: str
    method: str
    cpu_seconds: float
    embedding_std: float
    effective_rank: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """A table: what every method reached, what differs on the declared test, and what cannot tell methods apart.

    Attributes:
        saturated: tests on which a floor comes within 3 points of the best method: left out of the ranking.
        ranking: arms by their mean over the tests that are left, of the linear probe's balanced accuracy.
    """

    entries: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...]
    costs: tuple[Cost, ...]
    saturated: tuple[str, ...]
    ranking: tuple[tuple[str, float], ...]
    heads: tuple[str, ...]
    seeds: tuple[int, ...]
    level: float

    def dumps(self) -> str:
        """Return all of it as JSON; NaN becomes null."""
        return json.dumps(nulls(asdict(self)), indent=1, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """Return a table per test, the ranking, the comparisons and the costs."""
        lines: list[str] = []
        for task, test in dict.fromkeys((e.task, e.test) for e in self.entries):
            lines += [*self._test_lines(task, test), ""]
        return "\n".join([*lines, *self._ranking_lines(), "", *self._verdict_lines(), "", *self._cost_lines()]) + "\n"

    def _test_lines(self, task: str, test: str) -> list[str]:
        of = {(e.method, e.head, e.metric): e.value for e in self.entries if (e.task, e.test) == (task, test)}
        columns = [(LINEAR, METRIC), (NEAREST, METRIC), (LINEAR, AUROC), (NEAREST, AUROC)]
        columns += [(head, METRIC) for head in self.heads if head not in (LINEAR, NEAREST)]
        names = {(LINEAR, METRIC): "linear probe", (NEAREST, METRIC): "k-NN"}
        names |= {(LINEAR, AUROC): "linear probe, AUROC", (NEAREST, AUROC): "k-NN, AUROC"}
        note = "; saturated: a floor comes within 3 points of the best" if test in self.saturated else ""
        lines = [f"**{task}**, tested on {test}: balanced accuracy{note}", ""]
        titles = [names.get(column, column[0].removeprefix(f"{LINEAR} of ")) for column in columns]
        lines += ["| method | " + " | ".join(titles) + " |", "|---|" + "---|" * len(columns)]
        for method in dict.fromkeys(method for method, _, _ in of):
            lines += [f"| {method} | " + " | ".join(spread(of[method, *column]) for column in columns) + " |"]
        return lines

    def _ranking_lines(self) -> list[str]:
        if not self.ranking:
            return ["Every test is saturated: no ranking."]
        order = ", ".join(f"{name} {value:.3f}" for name, value in self.ranking)
        return [f"Arms by their mean over the tests that are not saturated (linear probe, descriptive): {order}."]

    def _verdict_lines(self) -> list[str]:
        first = self.verdicts[0]
        lines = [f"| comparison on {first.test}, linear probe | difference | p | verdict |", "|---|---|---|---|"]
        for v in self.verdicts:
            name = f"**{v.method} - {v.against}** (primary)" if v.role == "primary" else f"{v.method} - {v.against}"
            lines += [f"| {name} | {spread(v.difference, sign='+')} | {v.adjusted:.3f} | {v.verdict} |"]
        return lines

    def _cost_lines(self) -> list[str]:
        tasks = list(dict.fromkeys(cost.task for cost in self.costs))
        lines = ["| arm | " + " | ".join(f"{t}: CPU seconds, embedding std, effective rank" for t in tasks) + " |"]
        lines += ["|---|" + "---|" * len(tasks)]
        for method in dict.fromkeys(cost.method for cost in self.costs):
            of = {cost.task: cost for cost in self.costs if cost.method == method}
            cells = [f"{of[t].cpu_seconds:.0f}, {of[t].embedding_std:.2f}, {of[t].effective_rank:.1f}" for t in tasks]
            lines += [f"| {method} | " + " | ".join(cells) + " |"]
        return lines
