"""The loop: the same training whatever the world, stopped and resumed to the bit, and what it refuses."""

from typing import Any

import numpy as np
import pytest
from striped_corpus import write_corpus
from training_rig import Case, run_worlds

from medalign import checkpoint

LONG: dict[str, dict[str, Any]] = {
    # three micro-batches a step: two ranks need a padding one
    "info_nce": {"objective": "info_nce", "global_batch": 24, "steps": 20, "zero_stage": 2},
    "lvm_med": {"objective": "lvm_med", "steps": 20, "zero_stage": 1},
}
# the corpus has 4 steps an epoch: stopping at 3 and going on to 6 crosses the middle of a window and of an epoch
RESUMED: dict[str, dict[str, Any]] = {
    "fp32 zero 0": {"zero_stage": 0, "objective": "lvm_med"},
    "fp32 zero 3": {"zero_stage": 3, "objective": "lvm_med"},
    "bf16 zero 0": {"zero_stage": 0, "objective": "info_nce", "precision": "bf16"},
    "bf16 zero 2": {"zero_stage": 2, "objective": "info_nce", "precision": "bf16"},
    "bf16 zero 3": {"zero_stage": 3, "objective": "info_nce", "precision": "bf16"},
}
VALIDATED = {"objective": "info_nce", "validate_every": 2, "checkpoint_every": 1, "keep_last": 1, "steps": 5}

pytestmark = pytest.mark.timeout(600)  # the first test pays for the ranks
Results = dict[int, dict[tuple, list[Any]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return [world][what] -> each rank's result; one start of the ranks serves all tests of this file."""
    folder = tmp_path_factory.mktemp("rig")
    corpus = write_corpus(folder / "stripes", {"train": 70, "val": 24})
    jobs: dict[int, dict[tuple, Case]] = {1: {}, 2: {}}

    def add(world: int, key: tuple, function: str = "train", **keys: Any) -> str:
        run = str(folder / "runs" / "-".join(map(str, (world, *key))))
        jobs[world][key] = Case(function, {"corpus": corpus, "run": run, **keys})
        return run

    for world in jobs:
        for name, keys in LONG.items():
            add(world, ("long", name), **keys)
    for name, keys in RESUMED.items():
        keys = {"steps": 6, "idle": True, **keys}
        stopped = {world: add(world, ("stopped", name), stop_at=3, **keys) for world in jobs}
        for world in jobs:
            add(world, ("straight", name), **keys)
            add(world, ("resumed", name), resume_from=stopped[world], **keys)
    add(1, ("moved", "fp32 zero 0"), resume_from=stopped_of(jobs, 2), steps=6, idle=True, **RESUMED["fp32 zero 0"])
    for world in jobs:
        add(world, ("validated",), **VALIDATED)
        poison = {"poison": (1, 1, "loss"), "objective": "info_nce", "on_nonfinite": "stop"}
        add(world, ("not finite",), "fail", **poison)
        add(world, ("no such figure",), "fail", best="-accuracy", **{**VALIDATED, "validate_every": 1})
    add(1, ("short",), "fail", length=5)
    found = run_worlds({world: list(cases.values()) for world, cases in jobs.items()}, folder / "rig")
    return {world: dict(zip(jobs[world], found[world], strict=True)) for world in jobs}


def stopped_of(jobs: dict[int, dict[tuple, Case]], world: int) -> str:
    return jobs[world]["stopped", "fp32 zero 0"].arguments["run"]


def together(results: Results, world: int, name: str, what: str) -> dict[tuple[int, int], Any]:
    """Return what the ranks saw of each (step, micro-batch); none is computed twice."""
    ranks = [rank[what] for rank in results[world]["long", name]]
    found = {key: value for rank in ranks for key, value in rank.items()}
    assert len(found) == sum(map(len, ranks))
    return found


@pytest.mark.parametrize("name", LONG)
def test_two_workers_see_the_samples_that_one_sees_in_the_same_micro_batches(results: Results, name: str) -> None:
    alone, both = (together(results, world, name, "ids") for world in (1, 2))
    assert len(alone) == 20 * (3 if name == "info_nce" else 2)
    assert both == alone


def test_twenty_steps_of_a_continuous_objective_have_the_same_losses_on_two_workers(results: Results) -> None:
    alone, both = (losses(results[world]["long", "info_nce"][0]) for world in (1, 2))
    assert np.abs(alone - both).max() < 1e-4
    assert alone[-5:].mean() < alone[:5].mean() - 0.2  # and it does learn
    by_batch = [together(results, world, "info_nce", "losses_by_batch") for world in (1, 2)]
    assert max(abs(by_batch[0][key] - by_batch[1][key]) for key in by_batch[0]) < 1e-4


def test_running_statistics_do_not_depend_on_the_number_of_workers(results: Results) -> None:
    for name in LONG:
        (alone,), both = (results[world]["long", name] for world in (1, 2))
        assert alone["buffers"].keys() == both[0]["buffers"].keys()
        assert len(alone["buffers"]) > 4
        for part, value in alone["buffers"].items():
            np.testing.assert_allclose(both[0]["buffers"][part], value, rtol=2e-3, atol=2e-4)  # after 20 steps of fp32
            assert np.array_equal(both[0]["buffers"][part], both[1]["buffers"][part])


def test_twenty_steps_of_lvm_med_have_the_same_noise_and_matchings_on_two_workers(results: Results) -> None:
    problems = [together(results, world, "lvm_med", "problems") for world in (1, 2)]
    for index in range(2):  # of step 1, whose affinities are the same: what is left is the noise
        for table, other in zip(problems[0][0, index], problems[1][0, index], strict=True):
            assert np.abs(table - other).max() < 1e-5
            assert table.std() > 0.1
    alone, both = (together(results, world, "lvm_med", "matchings") for world in (1, 2))
    assert alone.keys() == both.keys()
    same = [np.array_equal(row, both[key][g]) for key, matching in alone.items() for g, row in enumerate(matching)]
    assert len(same) == 40
    assert np.mean(same) >= 0.99
    wrong = np.mean([(row != np.arange(8)).any() for matching in alone.values() for row in matching])
    assert wrong > 0.3  # the problems are hard enough for the comparison to mean something


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(results: Results, name: str, world: int) -> None:
    straight, stopped, resumed = (results[world][kind, name] for kind in ("straight", "stopped", "resumed"))
    assert [(r["state"].step, r["finished"]) for r in stopped] == [(3, False)] * world
    assert [(r["state"].step, r["finished"]) for r in resumed] == [(6, True)] * world
    assert losses(stopped[0]).tolist() == losses(straight[0])[:3].tolist()
    assert losses(resumed[0]).tolist() == losses(straight[0])[3:].tolist()  # bit for bit
    for rank in range(world):
        for kind in ("tensors", "buffers"):
            pairs = straight[rank][kind], resumed[rank][kind]
            assert pairs[0].keys() == pairs[1].keys()
            assert [n for n in pairs[0] if not np.array_equal(pairs[0][n], pairs[1][n])] == []


def test_a_run_of_two_workers_goes_on_with_one(results: Results) -> None:
    moved, straight = results[1]["moved", "fp32 zero 0"][0], results[2]["straight", "fp32 zero 0"][0]
    assert moved["state"].step == 6
    np.testing.assert_allclose(losses(moved), losses(straight)[3:], atol=1e-6)


def test_a_parameter_without_a_gradient_is_kept_as_it_is(results: Results) -> None:
    for name in RESUMED:
        for rank in results[2]["resumed", name]:
            assert rank["tensors"]["idle"].tolist() == [0.0, 1.0, 2.0]
            assert rank["tensors"]["idle/exp_avg"].tolist() == [0.0, 0.0, 0.0]


def test_validation_does_not_depend_on_the_number_of_workers(results: Results) -> None:
    alone, both = (results[world]["validated",][0]["validation"] for world in (1, 2))
    assert [line["step"] for line in alone] == [2, 4, 5]
    for line, other in zip(alone, both, strict=True):
        assert {"loss", "matching_accuracy", "embedding_std"} <= line.keys()
        assert other == pytest.approx(line, rel=1e-4)


@pytest.mark.parametrize("world", [1, 2])
def test_checkpoints_are_kept_by_their_age_and_their_figure(results: Results, world: int) -> None:
    result = results[world]["validated",][0]
    figures = {line["step"]: line["matching_accuracy"] for line in result["validation"]}
    best = min(step for step, figure in figures.items() if figure == max(figures.values()))
    saved = checkpoint.best(result["run"])
    assert saved is not None
    assert saved.state.step == best
    assert result["state"].best == pytest.approx(figures[best])
    newest = checkpoint.latest(result["run"])
    assert newest is not None
    assert newest.state.step == 5
    assert checkpoint.verify(saved) == checkpoint.verify(newest) == []
    assert [step for step, _ in result["reports"]] == [1, 2, 3, 4, 5]  # once a step, on every rank alike
    assert all([s for s, _ in rank["reports"]] == [1, 2, 3, 4, 5] for rank in results[world]["validated",])


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_may_stop_at_the_first_loss_that_is_not_finite(results: Results, world: int) -> None:
    expected = ("NonFiniteError", "step 2: the loss or its gradient is not finite; no weight was changed.")
    assert results[world]["not finite",] == [expected] * world


@pytest.mark.parametrize("world", [1, 2])
def test_a_figure_that_no_validation_has_is_named_with_those_it_has(results: Results, world: int) -> None:
    for kind, message in results[world]["no such figure",]:
        assert kind == "PlanError"
        assert message.startswith("train.best=-accuracy: a validation has no such figure; it has: embedding_std, loss")


def test_a_stream_that_ends_too_early_is_an_error(results: Results) -> None:
    assert results[1]["short",] == [("OrderError", "rank 0: nothing arrived in step 2.")]


def losses(result: dict[str, Any]) -> np.ndarray:
    return np.array([line["loss"] for line in result["lines"]])
