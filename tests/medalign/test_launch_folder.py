"""A run's folder: what may change when a run goes on, and what may not."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plain_tensors import PlainTensors

from medalign import checkpoint
from medalign.checkpoint import TrainState
from medalign.errors import CheckpointError, RunError
from medalign.launch import folder

CONTENTS = {"train": "a" * 64, "val": "b" * 64}
claim = partial(folder.claim, contents=CONTENTS)

RECIPE: dict[str, Any] = {
    "run": {"uri": "here", "seed": 1},
    "data": {"corpus": "a", "image_size": 64, "views": {"scale": (0.4, 1.0)}},
    "train": {"workers": 2, "zero_stage": 1, "steps": 10, "precision": "fp32", "micro_batch": 8, "global_batch": 16},
    "tracking": {"log_every": 10},
}


def changed(section: str, **keys: Any) -> dict[str, Any]:
    return {**RECIPE, section: {**RECIPE[section], **keys}}


def test_a_new_folder_is_claimed_and_an_old_one_resumed(tmp_path: Path) -> None:
    assert claim(str(tmp_path / "run"), RECIPE) is False
    started = json.loads((tmp_path / "run" / "environment.json").read_text())["started"]
    assert claim(str(tmp_path / "run"), RECIPE) is True
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
    claim(str(tmp_path), RECIPE)
    assert claim(str(tmp_path), recipe) is True


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
    claim(str(tmp_path), RECIPE)
    for attempt in (folder.check, folder.claim):
        with pytest.raises(RunError, match=f"this run was started with {key}; choose another run.uri.*--allow-change"):
            attempt(str(tmp_path), recipe, contents=CONTENTS)


def save(run: Path, **state: Any) -> None:
    known = {"step": 6, "seed": 1, "global_batch": 16, "data": {"train": "a" * 64}} | state
    checkpoint.save(str(run), TrainState(**known), PlainTensors(1), recipe=RECIPE)


@pytest.mark.parametrize(
    ("state", "difference"),
    [
        ({"seed": 2}, r"run.seed = 2, now it is 1 \(since step 6\)"),
        ({"global_batch": 32}, r"train.global_batch = 32, now it is 16 \(since step 6\)"),
        (
            {"data": {"train": "c" * 64, "test": "d" * 64}},
            r"data.corpus \(split train\) = sha256 c{12}, now it is sha256 a{12}",
        ),
    ],
)
def test_a_checkpoint_of_another_seed_batch_or_corpus_is_not_gone_on_from(
    tmp_path: Path, state: dict[str, Any], difference: str
) -> None:
    claim(str(tmp_path), RECIPE)
    save(tmp_path)
    assert claim(str(tmp_path), RECIPE) is True
    save(tmp_path, step=7) if not state else save(tmp_path, **({"step": 7} | state))
    with pytest.raises(RunError, match="this run was started with " + difference.replace("step 6", "step 7")):
        claim(str(tmp_path), RECIPE)
    assert claim(str(tmp_path), RECIPE, allow_change=True) is True


def test_what_is_allowed_to_change_stays_known(tmp_path: Path) -> None:
    claim(str(tmp_path), RECIPE)
    save(tmp_path)
    assert claim(str(tmp_path), changed("run", seed=2), allow_change=True) is True
    longer = changed("train", steps=20) | {"run": {"uri": "here", "seed": 2}}
    assert claim(str(tmp_path), longer, allow_change=True) is True
    lines = [json.loads(line) for line in (tmp_path / "changes.jsonl").read_text().splitlines()]
    assert [(line["key"], line["old"], line["new"], line["step"]) for line in lines] == [
        ("run.seed", 1, 2, 6),
        ("train.steps", 10, 20, 6),
        ("run.seed", 1, 2, 6),  # there is no checkpoint of the new seed yet
    ]


def test_a_newer_release_s_checkpoint_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    claim(str(tmp_path), RECIPE)
    save(tmp_path)
    at = Path(checkpoint.uri_of(str(tmp_path), 6)) / "manifest.json"
    at.write_text(json.dumps(json.loads(at.read_text()) | {"schema": "medalign.checkpoint/3"}))
    with pytest.raises(CheckpointError, match="format 3 is of a newer MedAlign, this one reads 2; update MedAlign"):
        claim(str(tmp_path), RECIPE)
