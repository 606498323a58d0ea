"""A training process killed at any moment: the run ends as if nothing had happened, to the last bit."""

from pathlib import Path

import drawn_chats
import pytest
from chaos_rig import EPOCH_STEPS, kill_runs, write_recipe
from striped_corpus import write_corpus


def kill(tmp_path: Path, objective: str, *, runs: int, kills: int, seed: int) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 100, "val": 16})
    kill_recipe(tmp_path, write_recipe(tmp_path, corpus, objective=objective), runs=runs, kills=kills, seed=seed)


def kill_recipe(tmp_path: Path, recipe: str, *, runs: int, kills: int, seed: int) -> None:
    found = kill_runs(tmp_path, recipe, runs=runs, kills=kills, seed=seed)
    count = len(found["kills"])
    print(f"R1 {Path(recipe).stem}: {count} kills, {found['seconds']:.0f} s, wrong: {found['wrong']}")  # noqa: T201
    assert count == runs * kills
    assert min(step for _, step, _ in found["kills"]) >= EPOCH_STEPS
    assert len({phase for *_, phase in found["kills"]}) > min(count, 12) / 3  # also in the middle of an accumulation
    assert found["wrong"] == []


@pytest.mark.timeout(400)
def test_twelve_kills_leave_no_trace_in_a_run_of_lvm_med(tmp_path: Path) -> None:
    kill(tmp_path, "lvm_med", runs=3, kills=4, seed=1)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_two_hundred_kills_leave_no_trace_in_runs_of_lvm_med(tmp_path: Path) -> None:
    kill(tmp_path, "lvm_med", runs=40, kills=5, seed=2)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_twenty_kills_leave_no_trace_in_runs_of_info_nce(tmp_path: Path) -> None:
    kill(tmp_path, "info_nce", runs=4, kills=5, seed=3)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_twenty_kills_leave_no_trace_in_runs_of_logra_med(tmp_path: Path) -> None:
    corpus = drawn_chats.write_corpus(tmp_path / "chats", {"train": 100, "val": 16})
    recipe = write_recipe(tmp_path, corpus, objective="logra_med", tower=drawn_chats.write_tower(tmp_path / "tower"))
    kill_recipe(tmp_path, recipe, runs=4, kills=5, seed=5)
