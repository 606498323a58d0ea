"""Rows chosen by cross-validation within a support: what is tried, how it is cut, and that the better one is taken."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from few_shot_recipe import built, write_recipe

from medalign.errors import RecipeError
from medalign.few_shot import few_shot
from medalign.few_shot.cells import Cell
from medalign.few_shot.settings import Method
from medalign.few_shot.tuning import folds, trials
from medalign_core.objectives.few_shot.coop import CoOp
from medalign_core.objectives.few_shot.dude.settings import Dude

CELL = Cell(task="colours", method="coop", shots=4, seed=3)
RATES = (2e-4, 2e-3, 2e-2)


def row(**space) -> Method:
    return Method(settings=Dude(), space={"training.learning_rate": RATES, **space})


def test_the_first_trial_is_the_row_as_written_and_no_trial_comes_twice():
    method = row(**{"settings.shared_n": (2.0, 4.0)})
    tried = trials(method, CELL, count=4)
    assert tried[0] == {}
    rows = [method.at(values) for values in tried]
    assert all(rows.count(one) == 1 for one in rows)
    assert all(isinstance(one.settings.shared_n, int) for one in rows)
    assert tried == trials(method, CELL, count=4)
    assert tried != trials(method, replace(CELL, seed=4), count=4)


def test_a_space_that_holds_less_than_the_trials_is_tried_whole():
    assert len(trials(row(), CELL, count=9)) == 3  # the written row has the middle rate
    assert trials(Method(settings=CoOp()), CELL, count=9) == [{}]


def test_a_row_at_other_values_differs_there_alone():
    found = row().at({"training.learning_rate": 0.1, "settings.coupling.tau_b": 0.9})
    assert found.schedule == replace(Dude.schedule, learning_rate=0.1)
    assert found.settings == replace(Dude(), coupling=replace(Dude().coupling, tau_b=0.9))


def test_every_fold_has_its_share_of_every_class():
    labels = np.array([0] * 4 + [1] * 6)
    found = folds(labels, count=2, seed=1)
    assert [np.bincount(labels[part]).tolist() for part in found] == [[2, 3], [2, 3]]
    assert np.sort(np.concatenate(found)).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"training.learning_rat": [1.0]}, "Training has no 'learning_rat'"),
        ({"training.learning_rate": [-1.0]}, "must be > 0"),
        ({"settings.alpha": []}, "at least one value"),
    ],
)
def test_a_space_that_no_row_can_have_is_refused(tmp_path, space, expected):
    document = write_recipe(tmp_path)
    document["methods"]["tip"] = {"settings": {"type": "tip_adapter_f"}, "space": space}
    with pytest.raises(RecipeError, match=expected):
        built(document)


def test_a_support_smaller_than_its_folds_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="2 parts, of 1"):
        built(write_recipe(tmp_path, tuning={"trials": 2}))


def test_a_tuned_comparison_keeps_its_trials_and_takes_the_best(tmp_path):
    document = write_recipe(tmp_path, shots=[4], seeds=[0], tuning={"trials": 3, "folds": 2})
    document["primary"]["shots"] = 4
    # as written the probe stays at zero, so that another row must be chosen
    still = {"type": "linear_probe", "inverse_penalty": 1e-9}
    document["methods"]["probe"] = {"settings": still, "space": {"settings.inverse_penalty": [1e-9, 1.0, 10.0]}}
    few_shot(built(document))
    path = next(Path(document["out"]).glob("cells/*/probe-*.parquet"))
    said = json.loads(pq.read_schema(path).metadata[b"training"])
    assert len(said["trials"]) == 3
    best = min(said["trials"], key=lambda t: (-t["balanced_accuracy"], t["cross_entropy"]))
    assert best["values"]
    assert said["chosen"]["inverse_penalty"] == best["values"]["settings.inverse_penalty"]
    untuned = next(Path(document["out"]).glob("cells/*/zero_shot-*.parquet"))
    assert b"trials" not in pq.read_schema(untuned).metadata[b"training"]
