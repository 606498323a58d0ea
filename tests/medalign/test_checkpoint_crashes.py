"""A process that dies at any point of a save leaves a complete checkpoint, goes on from it, and clears up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_rig import KEEP, POINTS, STEPS, left_behind, train, train_and_die, undisturbed
from plain_tensors import PlainTensors
from striped_corpus import write_corpus
from training_rig import Case, run_worlds

from medalign import checkpoint, faults

VISITS = (2, 3, 4)


@pytest.fixture(scope="module")
def states() -> list[PlainTensors]:
    return undisturbed()


def complete_steps(run: str) -> list[int]:
    return [int(uri[-8:]) for uri in checkpoint.complete(run)]


@pytest.mark.parametrize("visit", VISITS)
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_of_a_save_loses_nothing_that_was_complete(
    tmp_path: Path, states: list[PlainTensors], point: str, visit: int
) -> None:
    run = str(tmp_path)
    assert train_and_die(run, f"{point}:{visit}") == faults.EXIT_CODE
    saved = checkpoint.latest(run)
    assert saved is not None
    found = complete_steps(run)
    assert saved.state.step == max(found)
    died_in = visit if not point.startswith("ckpt.prune") else visit + 1 + KEEP  # the first two saves prune nothing
    is_published = POINTS.index(point) >= POINTS.index("ckpt.after_manifest")
    assert saved.state.step == (died_in if is_published else died_in - 1)
    assert checkpoint.verify(saved) in ([], checkpoint.verify(saved)[:2])  # at most unlisted files of the killed save
    tensors = PlainTensors(99)
    checkpoint.load(saved, tensors)
    assert tensors.same_as(states[saved.state.step])
    train(run, steps=saved.state.step + 1)  # one more save, and what the dead process left is gone
    assert left_behind(run) == []
    assert len(complete_steps(run)) <= KEEP + 1  # the newest ones and the best
    assert train(run).same_as(states[STEPS])
    assert complete_steps(run) == [1, STEPS - 1, STEPS]


def test_twelve_points_are_planned_and_each_is_met(tmp_path: Path) -> None:
    assert len(POINTS) == 12
    assert train_and_die(str(tmp_path), "no.such_point") == 0
    assert complete_steps(str(tmp_path)) == [1, STEPS - 1, STEPS]


@pytest.mark.parametrize("point", POINTS[:6])
def test_a_crash_in_the_very_first_save_leaves_none_and_the_run_begins_anew(
    tmp_path: Path, states: list[PlainTensors], point: str
) -> None:
    assert train_and_die(str(tmp_path), point) == faults.EXIT_CODE
    assert checkpoint.latest(str(tmp_path)) is None
    assert train(str(tmp_path)).same_as(states[STEPS])
    assert left_behind(str(tmp_path)) == []


def test_a_process_that_dies_again_and_again_still_arrives(tmp_path: Path, states: list[PlainTensors]) -> None:
    for number in range(30):
        code = train_and_die(str(tmp_path), f"{POINTS[number % len(POINTS)]}:{1 + number % 2}")
        assert checkpoint.latest(str(tmp_path)) is not None or number < 6
        if not code:
            break
    assert train(str(tmp_path)).same_as(states[STEPS])
    assert left_behind(str(tmp_path)) == []


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a training of two ranks at ZeRO-3, undisturbed, and what starts it."""
    folder = tmp_path_factory.mktemp("real")
    keys = {"corpus": write_corpus(folder / "stripes", {"train": 70}), "objective": "info_nce", "steps": 4}
    keys |= {"zero_stage": 3, "checkpoint_every": 1, "keep_last": 2}
    ((ranks,),) = run_worlds({2: [Case("train", {"run": str(folder / "run"), **keys})]}, folder / "rig").values()
    return {"keys": keys, "tensors": ranks[0]["tensors"]}


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["ckpt.mid_file:3@1", "ckpt.after_stage:3@1", "ckpt.before_manifest:3@0"])
def test_one_of_two_ranks_that_dies_in_a_save_costs_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: dict[str, Any], fault: str
) -> None:
    run = str(tmp_path / "run")
    case = {2: [Case("train", {"run": run, **real["keys"]})]}
    monkeypatch.setenv("MEDALIGN_FAULT", fault)
    with pytest.raises(AssertionError, match="a rank failed"):
        run_worlds(case, tmp_path / "killed")
    monkeypatch.delenv("MEDALIGN_FAULT")
    assert complete_steps(run) == [1, 2]
    ((ranks,),) = run_worlds(case, tmp_path / "again").values()
    assert ranks[0]["tensors"].keys() == real["tensors"].keys()
    assert all(np.array_equal(ranks[0]["tensors"][name], value) for name, value in real["tensors"].items())
    assert left_behind(run) == []
    assert complete_steps(run) == [3, 4]
