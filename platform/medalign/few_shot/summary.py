"""From stored predictions to results: means over seeds with intervals, and comparisons with the declared method."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from medalign import storage
from medalign.evaluation.compare import judge
from medalign.few_shot.cells import Cell
from medalign.few_shot.jobs import BASE, NEW, names_of_tests
from medalign.few_shot.results import Entry, Generalisation, Results, Verdict
from medalign.few_shot.settings import FewShot, Task, carries_over
from medalign_core.metrics.calibration import expected_calibration_error
from medalign_core.metrics.classification import METRICS, classification_scores
from medalign_core.metrics.intervals import Statistic, minus, paired_difference

FLOOR, SATURATED = "zero_shot", 0.03
ALL = (*METRICS, "ece")


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a cell predicted on one test."""

    groups: ndarray
    labels: Int[ndarray, " N"]
    probabilities: Float[ndarray, "N C"]


def summarise(recipe: FewShot) -> Results:
    """Return the table of a comparison whose cells are all there."""
    seen = {
        (cell.task, cell.method, cell.shots, cell.seed): read_cell(storage.join(recipe.out, cell.path))
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
        for test in names_of_tests(recipe, recipe.tasks[task]):
            for method in (name for name in recipe.methods if answers(recipe, name, test)):
                for shots in recipe.shots:
                    parts = [seen[task, method, shots, seed][test] for seed in recipe.seeds]
                    for metric in ALL:
                        value = paired_difference(
                            [mean_of([part], metric) for part in parts],
                            parts[0].groups,
                            replicates=recipe.replicates,
                            level=recipe.level,
                        )
                        entries.append(
                            Entry(task=task, test=test, method=method, shots=shots, metric=metric, value=value)
                        )
    return Results(
        entries=tuple(entries),
        overall=_overall(recipe, seen),
        verdicts=_verdicts(recipe, seen),
        saturated=_saturated(recipe, entries),
        generalisation=_generalisation(recipe, entries) if recipe.base_to_new else (),
        left_out=tuple(name for name, m in recipe.methods.items() if recipe.base_to_new and not carries_over(m)),
        shots=recipe.shots,
        seeds=recipe.seeds,
        level=recipe.level,
    )


def read_cell(uri: str) -> dict[str, Seen]:
    """Return what a cell predicted, by test."""
    table = pq.read_table(BytesIO(storage.read_bytes(uri)))
    tests = np.array(table["test"].to_pylist(), dtype=object)
    groups = np.array(table["group"].to_pylist(), dtype=object)
    labels, probabilities = table["label"].to_numpy(), np.array(table["probabilities"].to_pylist(), dtype=np.float64)
    found = {}
    for test in dict.fromkeys(tests):
        at = tests == test
        found[test] = Seen(groups=groups[at], labels=labels[at], probabilities=probabilities[at])
    return found


def mean_of(parts: Sequence[Seen], metric: str) -> Statistic:
    """Return the mean of a metric over parts whose samples lie end to end."""
    ends = np.cumsum([len(part.labels) for part in parts])[:-1]

    def value(weights: ndarray) -> ndarray:
        cut = np.split(weights, ends, axis=-1)
        return np.mean([_metric(part, metric, own) for part, own in zip(parts, cut, strict=True)], axis=0)

    return value


def _metric(part: Seen, metric: str, weights: ndarray) -> ndarray:
    if metric == "ece":
        return expected_calibration_error(part.labels, part.probabilities, weights=weights)
    return classification_scores(part.labels, part.probabilities, weights=weights, metrics=[metric])[metric]


def _own_parts(recipe: FewShot, seen: dict, method: str, *, shots: int, seed: int) -> list[Seen]:
    """Return what a method predicted on each task's own test."""
    return [seen[task, method, shots, seed][test] for task, test in own_tests(recipe).items()]


def _own_groups(recipe: FewShot, seen: dict) -> ndarray:
    """Return the groups of all tasks' own tests, end to end."""
    anyone, shots, seed = next(iter(recipe.methods)), recipe.shots[0], recipe.seeds[0]
    parts = _own_parts(recipe, seen, anyone, shots=shots, seed=seed)
    return np.concatenate(
        [[f"{task} {g}" for g in part.groups] for task, part in zip(recipe.tasks, parts, strict=True)]
    )


def _overall(recipe: FewShot, seen: dict) -> tuple[Entry, ...]:
    """Return each method's mean over tasks, by the primary metric."""
    metric, groups = recipe.primary.metric, _own_groups(recipe, seen)
    found = []
    for method in recipe.methods:
        for shots in recipe.shots:
            of_seeds = [
                mean_of(_own_parts(recipe, seen, method, shots=shots, seed=seed), metric) for seed in recipe.seeds
            ]
            value = paired_difference(of_seeds, groups, replicates=recipe.replicates, level=recipe.level)
            found.append(Entry(task="", test="", method=method, shots=shots, metric=metric, value=value))
    return tuple(found)


def _verdicts(recipe: FewShot, seen: dict) -> tuple[Verdict, ...]:
    """Compare the primary's method with every other one at every number of shots, on the mean over tasks."""
    first, metric, groups = recipe.primary.method, recipe.primary.metric, _own_groups(recipe, seen)
    parts = functools.partial(_own_parts, recipe, seen)
    found = []
    for against in (name for name in recipe.methods if name != first):
        for shots in recipe.shots:
            differences = [
                minus(*(mean_of(parts(name, shots=shots, seed=seed), metric) for name in (first, against)))
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
    return judge(sorted(found, key=lambda v: v.role != "primary"), recipe.level)


def _saturated(recipe: FewShot, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the tasks on which the zero-shot floor comes within 3 points of the best at the most shots."""
    found, tests = [], own_tests(recipe)
    for task in recipe.tasks:
        of = {
            e.method: e.value.estimate
            for e in entries
            if (e.task, e.test, e.shots, e.metric) == (task, tests[task], recipe.shots[-1], recipe.primary.metric)
        }
        if FLOOR in of and of[FLOOR] > max(of.values()) - SATURATED:
            found.append(task)
    return tuple(found)


def _generalisation(recipe: FewShot, entries: Sequence[Entry]) -> tuple[Generalisation, ...]:
    metric = recipe.primary.metric
    of = {(e.task, e.test, e.method, e.shots): e.value.estimate for e in entries if e.metric == metric}
    found = []
    for method in (name for name, settings in recipe.methods.items() if carries_over(settings)):
        for shots in recipe.shots:
            base, new = (
                np.array([of[task, _own(task, recipe.tasks[task], half), method, shots] for task in recipe.tasks])
                for half in (BASE, NEW)
            )
            found.append(
                Generalisation(
                    method=method,
                    shots=shots,
                    metric=metric,
                    base=float(base.mean()),
                    new=float(new.mean()),
                    harmonic_of_means=float(_harmonic(base.mean(), new.mean())),
                    mean_of_harmonics=float(_harmonic(base, new).mean()),
                )
            )
    return tuple(found)


def own_tests(recipe: FewShot) -> dict[str, str]:
    """Return the test by which each task counts in means over tasks; of halves, the classes that were trained on."""
    return {name: _own(name, task, BASE if recipe.base_to_new else "") for name, task in recipe.tasks.items()}


def answers(recipe: FewShot, method: str, test: str) -> bool:
    """Tell whether a method has predictions for a test."""
    is_new = recipe.base_to_new and test.endswith(f", {NEW}")
    return not is_new or carries_over(recipe.methods[method])


def _own(name: str, task: Task, half: str) -> str:
    test = name if name in task.tests else next(iter(task.tests))
    return f"{test}, {half}" if half else test


def _harmonic(first: ndarray, second: ndarray) -> ndarray:
    total = np.asarray(first + second, dtype=np.float64)
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)
