"""A run's folder: what may change when a run goes on, and what may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from medalign.errors import RunError
from medalign.launch import folder

RECIPE: dict[str, Any] = {
    "run": {"uri": "here", "seed": 1},
    "data": {"corpus": "a", "image_size": 64, "views": {"scale": (0.4, 1.0)}},
    "train": {"workers": 2, "zero_stage": 1, "steps": 10, "precision": "fp32", "micro_batch": 8},
    "tracking": {"log_every": 10},
}


def changed(section: str, **keys: Any) -> dict[str, Any]:
    return {**RECIPE, section: {**RECIPE[section], **keys}}


def test_a_new_folder_is_claimed_and_an_old_one_resumed(tmp_path: Path) -> None:
    assert folder.claim(str(tmp_path / "run"), RECIPE) is False
    started = json.loads((tmp_path / "run" / "environment.json").read_text())["started"]
    assert folder.claim(str(tmp_path / "run"), RECIPE) is True
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["started"] == started


@pytest.mark.parametrize(
    "recipe",
    [
        changed("train", workers=0, zero_stage=3),
        changed("run", uri="/mounted/elsewhere/here"),
        changed("data", corpus="s3://moved/a"),
        changed("data", views={"scale": [0.4, 1.0]}),
        {**RECIPE, "tracking": {"log_every": 1, "tensorboard": False}},
    ],
)
def test_what_changes_no_sample_and_no_computation_may_differ(tmp_path: Path, recipe: dict[str, Any]) -> None:
    folder.claim(str(tmp_path), RECIPE)
    assert folder.claim(str(tmp_path), recipe) is True


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        (changed("run", seed=2), r"run.seed = 1, now it is 2"),
        (changed("train", steps=20), r"train.steps = 10, now it is 20"),
        (changed("train", precision="bf16"), r"train.precision = 'fp32', now it is 'bf16'"),
        (changed("data", views={"scale": (0.5, 1.0)}), r"data.views.scale = \[0.4, 1.0\], now it is \(0.5, 1.0\)"),
        ({**RECIPE, "objective": {"type": "info_nce"}}, r"objective = None, now it is \{'type': 'info_nce'\}"),
    ],
)
def test_anything_else_is_another_run(tmp_path: Path, recipe: dict[str, Any], key: str) -> None:
    folder.claim(str(tmp_path), RECIPE)
    for attempt in (folder.check, folder.claim):
        with pytest.raises(RunError, match=f"this run was started with {key}; choose another run.uri"):
            attempt(str(tmp_path), recipe)
