"""The table of a comparison, from cells written by hand: intervals, Holm, the declared comparison, saturation."""

import json

import numpy as np
import pytest

from medalign.evaluation.result import Samples
from medalign.few_shot import FewShot
from medalign.few_shot.cells import Cell, write_cell
from medalign.few_shot.features import Features
from medalign.few_shot.settings import Method, Primary, Task
from medalign.few_shot.summary import summarise
from medalign.storage import join
from medalign_core.metrics.intervals import holm
from medalign_core.models.dual.settings import Bridge
from medalign_core.objectives.few_shot.coop import CoOp
from medalign_core.objectives.few_shot.linear_probe import LinearProbe
from medalign_core.objectives.few_shot.zero_shot import ZeroShot

COUNT = 80
LABELS = np.arange(COUNT) % 2
GROUPS = np.array([f"patient {i // 4}" for i in range(COUNT)], dtype=object)
IDS = np.array([f"image {i}" for i in range(COUNT)], dtype=object)


def recipe(out, **changes) -> FewShot:
    methods = {"zero_shot": Method(settings=ZeroShot()), "probe": Method(settings=LinearProbe())}
    known = {
        "out": str(out),
        "tasks": {"set": Task(train="unused", tests={"shifted": "unused", "set": "unused"}, bank="unused")},
        "methods": {**methods, "coop": Method(settings=CoOp())},
        "primary": Primary(method="coop", against="probe", shots=4),
        "encoder": Bridge(),
        "shots": (1, 4),
        "seeds": (0, 1, 2),
        "replicates": 400,
    }
    return FewShot(**{**known, **changes})


def write(comparison, right: dict[str, float], *, spread: float = 0.0) -> None:
    """Write every cell: a method is right on a share of whole patients, and less so by `spread` per seed."""
    rows = Features(rows=Samples(ids=IDS, groups=GROUPS, labels=LABELS), tokens=np.zeros(0), pooled=np.zeros(0))
    for method in comparison.methods:
        for shots in comparison.shots:
            for seed in comparison.seeds:
                share = right[method] - spread * seed
                is_right = np.arange(COUNT) // 4 < round(share * COUNT / 4)
                called = np.where(is_right, LABELS, 1 - LABELS)
                found = {test: 0.2 + 0.6 * np.eye(2)[called] for test in ("shifted", "set")}
                uri = join(comparison.out, Cell(task="set", method=method, shots=shots, seed=seed).path)
                write_cell(uri, "key", found, {}, {"shifted": rows, "set": rows})


def entry(results, method, metric="balanced_accuracy", test="set"):
    return next(e for e in results.entries if (e.method, e.metric, e.test, e.shots) == (method, metric, test, 4)).value


def test_a_cell_of_the_table_is_the_mean_over_seeds(tmp_path):
    comparison = recipe(tmp_path)
    write(comparison, {"zero_shot": 0.5, "probe": 0.6, "coop": 0.9}, spread=0.1)
    value = entry(summarise(comparison), "coop")
    assert value.per_seed == pytest.approx((0.9, 0.8, 0.7))
    assert value.estimate == pytest.approx(0.8)
    assert value.groups == 20
    assert value.low < 0.8 < value.high


def test_the_mean_over_tasks_is_that_of_their_own_tests(tmp_path):
    comparison = recipe(tmp_path)
    write(comparison, {"zero_shot": 0.5, "probe": 0.6, "coop": 0.9})
    found = summarise(comparison)
    assert [(e.method, e.shots) for e in found.overall] == [(m, s) for m in comparison.methods for s in (1, 4)]
    assert found.overall[-1].value == entry(found, "coop")  # there is one task
    assert "Mean over tasks" not in found.markdown()


def test_intervals_are_over_patients_and_over_seeds(tmp_path):
    still, moving = recipe(tmp_path / "still"), recipe(tmp_path / "moving")
    write(still, dict.fromkeys(still.methods, 0.7))
    write(moving, dict.fromkeys(still.methods, 0.9), spread=0.2)
    one, other = entry(summarise(still), "coop"), entry(summarise(moving), "coop")
    # 20 patients, all right or all wrong: the spread of a mean of 20 draws, not of 80
    assert one.standard_error == pytest.approx((0.7 * 0.3 / 20) ** 0.5, rel=0.2)
    assert one.estimate == pytest.approx(other.estimate)
    assert other.standard_error > 1.2 * one.standard_error


def test_the_declared_comparison_stands_first_and_the_others_are_corrected(tmp_path):
    comparison = recipe(tmp_path)
    write(comparison, {"zero_shot": 0.5, "probe": 0.5, "coop": 0.95})
    results = summarise(comparison)
    first, *rest = results.verdicts
    assert (first.role, first.method, first.against, first.shots) == ("primary", "coop", "probe", 4)
    assert first.adjusted == first.difference.p_value
    assert first.difference.estimate == pytest.approx(0.45)
    assert first.verdict == "higher"
    assert [v.role for v in rest] == ["secondary"] * 3
    assert sorted(v.adjusted for v in rest) == sorted(holm([v.difference.p_value for v in rest]))


def test_equal_methods_are_not_told_apart(tmp_path):
    comparison = recipe(tmp_path)
    write(comparison, dict.fromkeys(comparison.methods, 0.7))
    assert {v.verdict for v in summarise(comparison).verdicts} == {"not distinguishable"}


@pytest.mark.parametrize(("floor", "expected"), [(0.95, ("set",)), (0.8, ())])
def test_a_set_on_which_the_floor_is_near_the_best_is_saturated(tmp_path, floor, expected):
    comparison = recipe(tmp_path)
    write(comparison, {"zero_shot": floor, "probe": 0.5, "coop": 0.95})
    results = summarise(comparison)
    assert results.saturated == expected
    assert ("saturated" in results.markdown()) == bool(expected)


def test_calibration_is_in_the_table(tmp_path):
    comparison = recipe(tmp_path)
    write(comparison, {"zero_shot": 0.5, "probe": 0.8, "coop": 0.8})
    results = summarise(comparison)
    assert entry(results, "coop", "ece").estimate == pytest.approx(0.0, abs=1e-6)  # says 0.8 and is right on 0.8
    assert entry(results, "zero_shot", "ece").estimate == pytest.approx(0.3, abs=1e-6)
    assert json.loads(results.dumps())["level"] == 0.95
