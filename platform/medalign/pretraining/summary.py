"""From stored predictions to results: means over seeds with intervals, the declared comparison, saturated tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from medalign import storage
from medalign.evaluation.compare import judge
from medalign.pretraining.cells import FACTS, Cell
from medalign.pretraining.results import AUROC, Cost, Entry, Results, Verdict
from medalign.pretraining.settings import FLOORS, LINEAR, METRIC, NEAREST, RANDOM, Comparison
from medalign_core.metrics.classification import classification_scores
from medalign_core.metrics.intervals import Difference, Statistic, minus, paired_difference

CLOSE = 0.03  # a floor that comes so near to the best method: the test cannot tell methods apart
COLLAPSE = ("embedding_std", "effective_rank")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What a head predicted on one test."""

    groups: ndarray
    labels: Int[ndarray, " N"]
    probabilities: Float[ndarray, "N C"]


Predictions = Mapping[tuple[str, str], _Seen]  # by (head, test)
Table = dict[tuple[str, str, int], Predictions]  # by (task, method, seed)


def summarise(comparison: Comparison) -> Results:
    """Return the table of a comparison whose cells are all there."""
    table: Table = {}
    facts: dict[tuple[str, str, int], dict[str, float]] = {}
    for task in comparison.tasks:
        for method in comparison.methods:
            for seed in comparison.seeds:
                uri = storage.join(comparison.out, Cell(task=task, method=method, seed=seed).path)
                table[task, method, seed], facts[task, method, seed] = _read(uri)
    entries = tuple(_entries(comparison, table))
    saturated = _saturated(entries)
    return Results(
        entries=entries,
        verdicts=_verdicts(comparison, table),
        costs=_costs(comparison, facts),
        saturated=saturated,
        ranking=_ranking(comparison, entries, saturated),
        heads=comparison.heads,
        seeds=comparison.seeds,
        level=comparison.probing.level,
    )


def _read(uri: str) -> tuple[Predictions, dict[str, float]]:
    table = pq.read_table(BytesIO(storage.read_bytes(uri)))
    heads, tests, groups = (np.array(table[c].to_pylist(), dtype=object) for c in ("head", "test", "group"))
    labels, probabilities = table["label"].to_numpy(), np.array(table["probabilities"].to_pylist(), dtype=np.float64)
    found = {}
    for head, test in dict.fromkeys(zip(heads, tests, strict=True)):
        at = (heads == head) & (tests == test)
        found[head, test] = _Seen(groups=groups[at], labels=labels[at], probabilities=probabilities[at])
    return found, json.loads(table.schema.metadata[FACTS])


def _entries(comparison: Comparison, table: Table) -> list[Entry]:
    found = []
    for task, settings in comparison.tasks.items():
        for test in settings.tests:
            for method in comparison.methods:
                for head in comparison.heads:
                    parts = [table[task, method, seed][head, test] for seed in comparison.seeds]
                    for metric in (METRIC, AUROC) if head in (LINEAR, NEAREST) else (METRIC,):
                        value = _difference(comparison, [_statistic(part, metric) for part in parts], parts[0])
                        found.append(Entry(task=task, test=test, method=method, head=head, metric=metric, value=value))
    return found


def _verdicts(comparison: Comparison, table: Table) -> tuple[Verdict, ...]:
    """Compare the primary's method with every other one on its test, paired over seeds and groups."""
    primary = comparison.primary
    found = []
    for against in (name for name in comparison.methods if name != primary.method):
        pairs = [
            tuple(table[primary.task, method, seed][LINEAR, primary.test] for method in (primary.method, against))
            for seed in comparison.seeds
        ]
        differences = [minus(_statistic(ours, METRIC), _statistic(theirs, METRIC)) for ours, theirs in pairs]
        difference = _difference(comparison, differences, pairs[0][0])
        found.append(
            Verdict(
                method=primary.method,
                against=against,
                task=primary.task,
                test=primary.test,
                role="primary" if against == primary.against else "secondary",
                difference=difference,
                adjusted=difference.p_value,
                verdict="",
            )
        )
    return judge(sorted(found, key=lambda v: v.role != "primary"), comparison.probing.level)


def _difference(comparison: Comparison, statistics: Sequence[Statistic], seen: _Seen) -> Difference:
    probing = comparison.probing
    return paired_difference(statistics, seen.groups, replicates=probing.replicates, level=probing.level)


def _statistic(seen: _Seen, metric: str) -> Statistic:
    def value(weights: ndarray) -> ndarray:
        return classification_scores(seen.labels, seen.probabilities, weights=weights, metrics=[metric])[metric]

    return value


def _saturated(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the tests on which a floor comes within 3 points of the best method by the linear probe."""
    found = []
    for test in dict.fromkeys(entry.test for entry in entries):
        of = {e.method: e.value.estimate for e in entries if (e.test, e.head, e.metric) == (test, LINEAR, METRIC)}
        if max(of[floor] for floor in FLOORS) > max(of.values()) - CLOSE:
            found.append(test)
    return tuple(found)


def _ranking(
    comparison: Comparison, entries: Sequence[Entry], saturated: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    means = {}
    for arm in comparison.arms:
        values = [
            e.value.estimate
            for e in entries
            if (e.method, e.head, e.metric) == (arm, LINEAR, METRIC) and e.test not in saturated
        ]
        if values:
            means[arm] = float(np.mean(values))
    return tuple(sorted(means.items(), key=lambda item: -item[1]))


def _costs(comparison: Comparison, facts: Mapping[tuple[str, str, int], Mapping[str, float]]) -> tuple[Cost, ...]:
    found = []
    for task in comparison.tasks:
        for method in (*comparison.arms, RANDOM):
            own = [facts[task, method, seed] for seed in comparison.seeds]
            means = {name: float(np.mean([fact.get(name, 0.0) for fact in own])) for name in ("cpu_seconds", *COLLAPSE)}
            found.append(Cost(task=task, method=method, **means))
    return tuple(found)
