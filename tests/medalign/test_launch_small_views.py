"""Small views in a recipe: drawn by the stream, seen by the objectives that look at them, refused by the others."""

from pathlib import Path

import pytest
from striped_corpus import write_corpus

from medalign import train
from medalign.errors import RecipeError
from medalign.recipe import open_recipe

SMALL = "data.views.small={count: 2, size: 32}"
KEYS = ["data.image_size=48", "train.workers=0", "train.micro_batch=16", "train.global_batch=16", "train.steps=2"]


@pytest.mark.parametrize("objective", ["lvm_med", "swav", "vicregl", "moco"])
def test_an_objective_trains_on_two_large_views_and_two_small_ones(objective: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 40, "val": 16})
    keys = {"lvm_med": "objective.alpha=0.5", "swav": "objective={type: swav, prototypes: 10}"}
    keys |= {"vicregl": "objective={type: vicregl, local_size: 16}", "moco": "objective={type: moco, queue_size: 40}"}
    common = [f"data.corpus={corpus}", *KEYS, keys[objective]]
    with_small = train("lvm_med/tiny_cpu", [*common, SMALL, f"run.uri={tmp_path / 'small'}"])
    without = train("lvm_med/tiny_cpu", [*common, f"run.uri={tmp_path / 'plain'}"])
    assert with_small.step == without.step == 2
    assert with_small.last["train"]["loss"] != without.last["train"]["loss"]


@pytest.mark.parametrize("objective", ["{type: info_nce}", "{type: lvm_med, local: false}"])
def test_small_views_that_nothing_looks_at_are_refused(objective: str) -> None:
    with pytest.raises(RecipeError, match="data.views.small.* no objective looks at small views"):
        open_recipe("lvm_med/tiny_cpu", ["data.corpus=corpora/any", f"objective={objective}", SMALL])
