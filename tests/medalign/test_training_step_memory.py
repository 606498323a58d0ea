"""What an objective carries between steps: the same on every rank and in every world, saved and resumed bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from striped_corpus import write_corpus
from training_rig import Case, run_worlds

from medalign.checkpoint import latest, weights
from medalign.checkpoint.trained_encoder import PREFIX

# (objective, ZeRO stage, precision)
KINDS = [("moco", 0, "fp32"), ("moco", 3, "fp32"), ("byol", 1, "bf16")]
KINDS_IN_FP32 = [kind for kind in KINDS if kind[2] == "fp32"]
STEPS = 4

pytestmark = pytest.mark.timeout(600)  # the first test pays for the ranks
Results = dict[int, dict[tuple, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return [world][what, *kind] -> each rank's result."""
    folder = tmp_path_factory.mktemp("rig")
    corpus = write_corpus(folder / "stripes", {"train": 70})
    jobs: dict[int, dict[tuple, Case]] = {1: {}, 2: {}}
    for world, found in jobs.items():
        for kind in KINDS:
            objective, stage, precision = kind
            # 3 micro-batches a step: two ranks need a padding one
            keys = {
                "corpus": corpus,
                "objective": objective,
                "zero_stage": stage,
                "precision": precision,
                "global_batch": 24,
                "steps": STEPS,
            }
            whole, half, rest = (run_of(folder, world, name, kind) for name in ("whole", "half", "rest"))
            found["whole", *kind] = Case("train", {"run": whole, **keys})
            found["half", *kind] = Case("train", {"run": half, "stop_at": 2, **keys})
            found["rest", *kind] = Case("train", {"run": rest, "resume_from": half, **keys})
        for kind in KINDS:
            objective, stage, precision = kind
            at = run_of(folder, 3 - world, "half", kind)
            keys = {"corpus": corpus, "objective": objective, "zero_stage": stage, "precision": precision}
            found["reload", *kind] = Case("reload", {"run": "unused", "at": at, "global_batch": 24, **keys})
    found = run_worlds({world: list(cases.values()) for world, cases in jobs.items()}, folder / "rig")
    return {world: dict(zip(jobs[world], found[world], strict=True)) for world in jobs}


def run_of(folder: Path, world: int, name: str, kind: tuple) -> str:
    return str(folder / "runs" / "-".join(map(str, (world, name, *kind))))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not np.array_equal(found[name], value)] == []


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(results: Results, kind: tuple, world: int) -> None:
    for whole, rest in zip(results[world]["whole", *kind], results[world]["rest", *kind], strict=True):
        assert_same(rest["tensors"], whole["tensors"])
        assert_same(rest["buffers"], whole["buffers"])
    assert results[world]["rest", *kind][0]["lines"] != []
    last = [run[0]["lines"][-1]["loss"] for run in (results[world]["whole", *kind], results[world]["rest", *kind])]
    assert last[0] == last[1]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_carried_comes_back_on_another_number_of_ranks(results: Results, kind: tuple, world: int) -> None:
    saved = results[3 - world]["half", *kind][0]
    for rank in results[world]["reload", *kind]:
        assert_same(rank["tensors"], saved["tensors"])
        assert_same(rank["buffers"], saved["buffers"])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_rank_carries_the_same(results: Results, kind: tuple) -> None:
    first, second = results[2]["whole", *kind]
    assert_same(first["buffers"], second["buffers"])


@pytest.mark.parametrize("kind", KINDS_IN_FP32, ids=str)
def test_one_rank_and_two_carry_the_same(results: Results, kind: tuple) -> None:
    one, two = (results[world]["whole", *kind][0]["buffers"] for world in (1, 2))
    assert "queue" in one
    for name, value in one.items():  # up to the order in which gradients are added
        np.testing.assert_allclose(two[name], value, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_target_moves_slower_than_the_network_it_follows(results: Results, kind: tuple) -> None:
    half, whole = (results[1][name, *kind][0] for name in ("half", "whole"))
    moved = {"weight": 0.0, "target": 0.0}
    for name, value in whole["buffers"].items():
        if name.startswith("target.") and "running" not in name:
            own = "encoder." + name.removeprefix("target.networks.0.")
            if own in whole["tensors"]:
                moved["target"] += float(np.abs(value - half["buffers"][name]).sum())
                moved["weight"] += float(np.abs(whole["tensors"][own] - half["tensors"][own]).sum())
    assert 0 < moved["target"] < moved["weight"]


def test_the_encoder_in_the_checkpoint_is_the_trained_one(results: Results) -> None:
    rank = results[1]["whole", *KINDS[0]][0]
    saved = latest(rank["run"])
    assert saved is not None
    held = weights(saved, prefix=PREFIX)
    trained = {name: value for name, value in rank["tensors"].items() if "/" not in name and name.startswith(PREFIX)}
    assert held.keys() >= trained.keys()
    assert all(np.array_equal(held[name].numpy(), value) for name, value in trained.items())
