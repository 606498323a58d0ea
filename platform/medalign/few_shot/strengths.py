"""What methods reach along the strengths of corruptions, on the mean over tasks, and how far they lie apart there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medalign import storage
from medalign.errors import RecipeError
from medalign.evaluation.result import spread
from medalign.few_shot.cells import Cell
from medalign.few_shot.settings import FewShot
from medalign.few_shot.summary import Seen, mean_of, own_tests, read_cell
from medalign_core.metrics.intervals import Difference, minus, paired_difference

CLEAN = ""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """A method under one corruption; all of it is descriptive.

    Attributes:
        corruption: its name, "" for clean images.
        value: the metric, a mean over seeds and tasks, with an interval over seeds and groups.
        apart: its paired difference to the primary comparison's second method; None for that one itself.
    """

    method: str
    corruption: str
    value: Difference
    apart: Difference | None


def along_strengths(recipe: FewShot) -> tuple[Strength, ...]:
    """Return every method under every corruption that all tasks have, by the recipe's primary metric and shots.

    Args:
        recipe: a comparison whose cells are all there.

    Raises:
        RecipeError: the tasks share no corruption.
    """
    names = [{c.name for c in task.corruptions} for task in recipe.tasks.values()]
    order = [c.name for c in next(iter(recipe.tasks.values())).corruptions]
    shared = [name for name in order if name in set.intersection(*names)]
    if not shared:
        raise RecipeError("tasks: they share no corruption; give each the same ones.")
    seen = {
        (task, method, seed): read_cell(storage.join(recipe.out, cell.path))
        for task in recipe.tasks
        for method in recipe.methods
        for seed in recipe.seeds
        for cell in [Cell(task=task, method=method, shots=recipe.primary.shots, seed=seed)]
    }
    found: list[Strength] = []
    for name in (CLEAN, *shared):
        tests = {task: f"{test}, {name}" if name else test for task, test in own_tests(recipe).items()}
        parts = {
            method: [[seen[task, method, seed][test] for task, test in tests.items()] for seed in recipe.seeds]
            for method in recipe.methods
        }
        found += _under(recipe, name, parts)
    return tuple(found)


def _under(recipe: FewShot, corruption: str, parts: Mapping[str, Sequence[Sequence[Seen]]]) -> list[Strength]:
    """Return every method under one corruption; `parts` are by method, seed and task."""
    floor, metric = recipe.primary.against, recipe.primary.metric
    of_tasks = zip(recipe.tasks, parts[floor][0], strict=True)
    groups = np.concatenate([[f"{task} {group}" for group in part.groups] for task, part in of_tasks])
    judged = partial(paired_difference, groups=groups, replicates=recipe.replicates, level=recipe.level)
    found = []
    for method in recipe.methods:
        ours, theirs = ([mean_of(of_seed, metric) for of_seed in parts[name]] for name in (method, floor))
        apart = [minus(first, second) for first, second in zip(ours, theirs, strict=True)]
        value, difference = judged(ours), None if method == floor else judged(apart)
        found.append(Strength(method=method, corruption=corruption, value=value, apart=difference))
    return found


def markdown(recipe: FewShot, found: Sequence[Strength]) -> str:
    """Return two tables: what methods reach, and how far they are from the floor."""
    names, floor = list(dict.fromkeys(s.corruption for s in found)), recipe.primary.against
    head = "| method | " + " | ".join(name or "clean" for name in names) + " |\n|---|" + "---|" * len(names)
    metric = recipe.primary.metric.replace("_", " ")
    lines = [f"{metric[0].upper()}{metric[1:]}, mean over {len(recipe.tasks)} tasks", "", head]
    for method in recipe.methods:
        row = [s.value for s in found if s.method == method]
        lines.append(f"| {method} | " + " | ".join(spread(value) for value in row) + " |")
    lines += ["", f"Paired differences to {floor}, descriptive", "", head]
    for method in (name for name in recipe.methods if name != floor):
        apart = [s.apart for s in found if s.method == method and s.apart is not None]
        lines.append(f"| {method} | " + " | ".join(spread(value, sign="+") for value in apart) + " |")
    return "\n".join(lines) + "\n"
