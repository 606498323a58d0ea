"""From stored predictions to the table: means over seeds with intervals, and comparisons with the declared method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from medalign import storage
from medalign.few_shot.cells import Cell
from medalign.few_shot.settings import FewShot
from medalign_core.metrics.calibration import expected_calibration_error
from medalign_core.metrics.classification import METRICS, classification_scores
from medalign_core.metrics.intervals import Difference, Statistic, holm, paired_difference

FLOOR, SATURATED = "zero_shot", 0.03
ALL = (*METRICS, "ece")


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
class Results:
    """A table: what every method reached, what differs, and which tasks cannot tell methods apart."""

    entries: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...]
    saturated: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    level: float

    def dumps(self) -> str:
        """Return all of it as JSON; NaN becomes null."""
        return json.dumps(_plain(asdict(self)), indent=1, allow_nan=False) + "\n"

    def markdown(self, metric: str = "balanced_accuracy") -> str:
        """Return one metric as tables, one per test, and the comparisons."""
        lines: list[str] = []
        for task, test in dict.fromkeys((e.task, e.test) for e in self.entries):
            entries = [e for e in self.entries if (e.task, e.test, e.metric) == (task, test, metric)]
            note = ", saturated" if task in self.saturated else ""
            lines += [f"**{task}**, tested on {test}: {metric.replace('_', ' ')}{note}", ""]
            lines += ["| method | " + " | ".join(f"{s} shots" for s in self.shots) + " |"]
            lines += ["|---|" + "---|" * len(self.shots)]
            for method in dict.fromkeys(e.method for e in entries):
                row = {e.shots: e.value for e in entries if e.method == method}
                lines += [f"| {method} | " + " | ".join(_spread(row[s]) for s in self.shots) + " |"]
            lines += [""]
        lines += ["| comparison, mean over tasks | shots | difference | p | verdict |", "|---|---|---|---|---|"]
        for v in self.verdicts:
            name = f"**{v.method} - {v.against}** (primary)" if v.role == "primary" else f"{v.method} - {v.against}"
            lines += [f"| {name} | {v.shots} | {_spread(v.difference, sign='+')} | {v.adjusted:.3f} | {v.verdict} |"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What a cell predicted on one test."""

    groups: ndarray
    labels: Int[ndarray, " N"]
    probabilities: Float[ndarray, "N C"]


def summarise(recipe: FewShot) -> Results:
    """Return the table of a comparison whose cells are all there."""
    seen = {
        (cell.task, cell.method, cell.shots, cell.seed): _read(storage.join(recipe.out, cell.path))
        for cell in (
            Cell(task=task, method=method, shots=shots, seed=seed)
            for task in recipe.tasks
            for method in recipe.methods
            for shots in recipe.shots
            for seed in recipe.seeds
        )
    }
    entries = []
    for task in recipe.tasks:
        for test in recipe.tasks[task].tests:
            for method in recipe.methods:
                for shots in recipe.shots:
                    parts = [seen[task, method, shots, seed][test] for seed in recipe.seeds]
                    for metric in ALL:
                        value = paired_difference(
                            [_statistic([part], metric) for part in parts],
                            parts[0].groups,
                            replicates=recipe.replicates,
                            level=recipe.level,
                        )
                        entries.append(
                            Entry(task=task, test=test, method=method, shots=shots, metric=metric, value=value)
                        )
    return Results(
        entries=tuple(entries),
        verdicts=_verdicts(recipe, seen),
        saturated=_saturated(recipe, entries),
        shots=recipe.shots,
        seeds=recipe.seeds,
        level=recipe.level,
    )


def _read(uri: str) -> dict[str, _Seen]:
    table = pq.read_table(BytesIO(storage.read_bytes(uri)))
    tests = np.array(table["test"].to_pylist(), dtype=object)
    groups = np.array(table["group"].to_pylist(), dtype=object)
    labels, probabilities = table["label"].to_numpy(), np.array(table["probabilities"].to_pylist(), dtype=np.float64)
    found = {}
    for test in dict.fromkeys(tests):
        at = tests == test
        found[test] = _Seen(groups=groups[at], labels=labels[at], probabilities=probabilities[at])
    return found


def _statistic(parts: Sequence[_Seen], metric: str) -> Statistic:
    """Return the mean of a metric over parts whose samples lie end to end."""
    ends = np.cumsum([len(part.labels) for part in parts])[:-1]

    def value(weights: ndarray) -> ndarray:
        cut = np.split(weights, ends, axis=-1)
        return np.mean([_metric(part, metric, own) for part, own in zip(parts, cut, strict=True)], axis=0)

    return value


def _metric(part: _Seen, metric: str, weights: ndarray) -> ndarray:
    if metric == "ece":
        return expected_calibration_error(part.labels, part.probabilities, weights=weights)
    return classification_scores(part.labels, part.probabilities, weights=weights, metrics=[metric])[metric]


def _verdicts(recipe: FewShot, seen: dict) -> tuple[Verdict, ...]:
    """Compare the primary's method with every other one at every number of shots, on the mean over tasks."""
    first, metric = recipe.primary.method, recipe.primary.metric
    tests = {name: name if name in task.tests else next(iter(task.tests)) for name, task in recipe.tasks.items()}

    def parts(method: str, shots: int, seed: int) -> list[_Seen]:
        return [seen[task, method, shots, seed][test] for task, test in tests.items()]

    groups = np.concatenate(
        [
            [f"{task} {g}" for g in seen[task, first, recipe.shots[0], recipe.seeds[0]][t].groups]
            for task, t in tests.items()
        ]
    )
    found = []
    for against in (name for name in recipe.methods if name != first):
        for shots in recipe.shots:
            differences = [
                _minus(_statistic(parts(first, shots, seed), metric), _statistic(parts(against, shots, seed), metric))
                for seed in recipe.seeds
            ]
            difference = paired_difference(differences, groups, replicates=recipe.replicates, level=recipe.level)
            role = "primary" if (against, shots) == (recipe.primary.against, recipe.primary.shots) else "secondary"
            found.append(
                Verdict(
                    method=first,
                    against=against,
                    shots=shots,
                    metric=metric,
                    role=role,
                    difference=difference,
                    adjusted=difference.p_value,
                    verdict="",
                )
            )
    adjusted = iter(holm([v.difference.p_value for v in found if v.role == "secondary"]))
    judged = [replace(v, adjusted=next(adjusted)) if v.role == "secondary" else v for v in found]
    return tuple(
        replace(v, verdict=_judge(v.difference, v.adjusted, recipe.level))
        for v in sorted(judged, key=lambda v: v.role != "primary")
    )


def _judge(difference: Difference, p_value: float, level: float) -> str:
    is_seen = abs(difference.estimate) >= difference.minimum_detectable  # False where that is NaN
    if not is_seen or p_value > 1 - level:
        return "not distinguishable"
    return "higher" if difference.estimate > 0 else "lower"


def _saturated(recipe: FewShot, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the tasks on which the zero-shot floor comes within 3 points of the best at the most shots."""
    found = []
    for task in recipe.tasks:
        of = {
            e.method: e.value.estimate
            for e in entries
            if (e.task, e.shots, e.metric) == (task, recipe.shots[-1], recipe.primary.metric)
        }
        if FLOOR in of and of[FLOOR] > max(of.values()) - SATURATED:
            found.append(task)
    return tuple(found)


def _minus(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights: first(weights) - second(weights)


def _spread(value: Difference, sign: str = "") -> str:
    return f"{value.estimate:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
