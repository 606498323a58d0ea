"""Runs as a user starts them: on Ray and in this process, the same to rounding, resumed by any number of workers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from striped_corpus import write_corpus

from medalign import checkpoint, train
from medalign.checkpoint import weights
from medalign.errors import MedAlignError, OrderError, PlanError, RecipeError, RunError
from medalign.launch.on_ray import _first_failure

# 3 micro-batches a step, so that two workers need a padding one; 2 steps an epoch, so that 5 steps cross two
RECIPE = {
    "run": {"seed": 4},
    "data": {"image_size": 32, "shuffle_rows": 24},
    "model": {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "objective": {"type": "lvm_med", "graph_size": 8, "neighbours": 3, "projection_size": 16, "graph_width": 16},
    "optimizer": {"type": "adam", "learning_rate": 1e-3},
    "train": {"micro_batch": 8, "global_batch": 24, "steps": 5, "checkpoint_every": 1, "keep_last": 5},
    "tracking": {"log_every": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a recipe file whose corpus exists."""
    folder = tmp_path_factory.mktemp("recipes")
    corpus = write_corpus(folder / "stripes", {"train": 66, "val": 24})
    data = {**RECIPE["data"], "corpus": corpus}
    (folder / "small.yaml").write_text(yaml.safe_dump({**RECIPE, "data": data, "run": {"seed": 4, "uri": "unset"}}))
    return str(folder / "small.yaml")


@pytest.fixture(scope="module")
def alone(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that this process has trained."""
    uri = tmp_path_factory.mktemp("runs") / "alone"
    result = train(recipe, [f"run.uri={uri}", "train.workers=0", "train.validate_every=2"])
    assert (result.uri, result.step, result.total_steps, result.skipped) == (str(uri), 5, 5, 0)
    assert result.last["train"].keys() > {"loss", "matching_accuracy", "images_per_second", "data_wait"}
    assert result.best is not None
    return uri


@pytest.fixture(scope="module")
def shared(recipe: str, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run, trained by two workers on Ray and fed by Ray Data."""
    uri = tmp_path_factory.mktemp("runs") / "shared"
    options = ["train.workers=2", "train.zero_stage=2", "train.validate_every=2"]
    result = train(recipe, [f"run.uri={uri}", *options])
    assert (result.step, result.total_steps, result.skipped) == (5, 5, 0)
    return uri


def figures(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def trained(run: Path) -> dict[str, np.ndarray]:
    saved = checkpoint.latest(str(run))
    assert saved is not None
    assert saved.state.step == 5
    return {name: value.numpy() for name, value in weights(saved).items()}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


def rewind(run: Path, to: Path, *, step: int) -> None:
    """Copy a run as it was after a step."""
    shutil.copytree(run, to)
    for folder in (to / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    (to / "checkpoints" / "best.json").unlink(missing_ok=True)


def test_a_run_leaves_its_recipe_its_environment_its_figures_and_its_matching(alone: Path) -> None:
    stored = yaml.safe_load((alone / "recipe.yaml").read_text())
    assert stored["train"]["steps"] == 5
    assert stored["train"]["precision"] == "fp32"  # what was not said is there as well
    assert json.loads((alone / "environment.json").read_text())["packages"]["torch"]
    assert [line["step"] for line in figures(alone)] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in figures(alone, "validation")] == [2, 4, 5]
    with np.load(alone / "figures" / "matching.npz") as drawn:
        assert sorted(drawn["matching"].tolist()) == list(range(8))
        assert drawn["first"].shape == drawn["second"].shape == (8, 32, 32, 3)


def test_two_workers_on_ray_train_what_one_process_trains(alone: Path, shared: Path) -> None:
    for kind in ("train", "validation"):
        pairs = list(zip(figures(alone, kind), figures(shared, kind), strict=True))
        for line, other in pairs:
            assert line["step"] == other["step"]
            for name in ("loss", "matching_accuracy", "embedding_std", "edge_overlap"):
                assert other[name] == pytest.approx(line[name], abs=1e-4), (line["step"], name)
    assert_close(trained(shared), trained(alone))


def test_a_run_of_two_workers_is_resumed_in_one_process(recipe: str, shared: Path, tmp_path: Path) -> None:
    rewind(shared, tmp_path / "run", step=3)
    result = train(recipe, [f"run.uri={tmp_path}/run", "train.workers=0", "train.zero_stage=0"])
    assert result.step == 5
    losses = [line["loss"] for line in figures(shared)]
    assert [line["step"] for line in figures(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in figures(tmp_path / "run")] == pytest.approx(losses, abs=1e-5)
    assert_close(trained(tmp_path / "run"), trained(shared))


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(recipe: str, alone: Path, tmp_path: Path) -> None:
    rewind(alone, tmp_path / "run", step=2)
    train(recipe, [f"run.uri={tmp_path}/run", "train.workers=0", "train.validate_every=2"])
    expected, found = trained(alone), trained(tmp_path / "run")
    assert [name for name in expected if not np.array_equal(found[name], expected[name])] == []


def test_a_finished_run_is_left_as_it_is(recipe: str, alone: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (alone / "checkpoints").rglob("*")}
    result = train(recipe, [f"run.uri={alone}", "train.workers=0", "train.validate_every=2"])
    assert (result.step, result.total_steps, result.uri) == (5, 5, str(alone))
    assert {path: path.stat().st_mtime_ns for path in (alone / "checkpoints").rglob("*")} == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.seed=5", r"this run was started with run.seed = 4, now it is 5 \(since step 5\); choose another run.uri"),
        ("optimizer.learning_rate=0.1", "started with optimizer.learning_rate = 0.001, now it is 0.1"),
        ("train.global_batch=16", "started with train.global_batch = 24, now it is 16"),
        ("data.image_size=48", "started with data.image_size = 32, now it is 48"),
    ],
)
def test_another_recipe_may_not_take_over_a_run(recipe: str, alone: Path, override: str, message: str) -> None:
    before = (alone / "recipe.yaml").read_bytes()
    with pytest.raises(RunError, match=message):
        train(recipe, [f"run.uri={alone}", "train.workers=0", override])
    assert (alone / "recipe.yaml").read_bytes() == before


def test_a_plan_that_leaves_no_cpu_for_data_is_refused_before_the_run_exists(
    recipe: str, ray_local: None, tmp_path: Path
) -> None:
    overrides = [f"run.uri={tmp_path}/run", "train.workers=3", "train.cpus_per_worker=1.1"]
    message = "train.workers=3 with train.cpus_per_worker=1.1 take 3.3 of the cluster's 4 CPUs and leave none for data"
    with pytest.raises(PlanError, match=message):
        train(recipe, overrides)
    with pytest.raises(PlanError, match="need more than the cluster's 0 GPUs; lower train.workers"):
        train(recipe, [f"run.uri={tmp_path}/run", "train.workers=1", "train.gpus_per_worker=1"])
    assert not (tmp_path / "run").exists()


def test_more_workers_than_micro_batches_are_refused_with_the_key(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.workers.*must not exceed global_batch / micro_batch = 3, got 4"):
        train(recipe, [f"run.uri={tmp_path}/run", "train.workers=4"])


def test_the_failure_that_is_told_is_the_one_that_explains_the_others() -> None:
    import ray.train

    torn, own = RuntimeError("Connection reset by peer"), OrderError("rank 1: out of turn")
    assert _first_failure(ray.train.WorkerGroupError("", {0: torn, 1: own})) is own
    assert _first_failure(ray.train.WorkerGroupError("", {2: torn, 1: torn})) is torn
    assert _first_failure(ray.train.ControllerError(own)) is own
    stopped = MedAlignError("another")
    assert _first_failure(stopped) is stopped


@pytest.mark.slow
def test_a_run_of_one_process_is_resumed_by_two_workers_on_ray(
    recipe: str, ray_local: None, alone: Path, tmp_path: Path
) -> None:
    rewind(alone, tmp_path / "run", step=3)  # in the middle of an epoch
    train(recipe, [f"run.uri={tmp_path}/run", "train.workers=2", "train.zero_stage=3"])
    losses = [line["loss"] for line in figures(alone)]
    assert [line["loss"] for line in figures(tmp_path / "run")] == pytest.approx(losses, abs=1e-5)
    assert_close(trained(tmp_path / "run"), trained(alone))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_a_run_on_ray_with_its_reason(
    recipe: str, ray_local: None, tmp_path: Path
) -> None:
    from medalign.errors import NonFiniteError

    options = ["train.workers=2", "train.on_nonfinite=stop", "optimizer.learning_rate=1e20", "train.clip=0.0"]
    with pytest.raises(NonFiniteError, match=r"step \d: the loss or its gradient is not finite"):
        train(recipe, [f"run.uri={tmp_path}/run", *options])


@pytest.mark.chaos
def test_a_killed_worker_s_run_goes_on_and_ends_as_if_nothing_had_happened(
    recipe: str, ray_local: None, tmp_path: Path
) -> None:
    def options(run: str, dies_at: int, *more: str) -> list[str]:
        own = f"objective={{type: own_objectives:Mortal, dies_at: {dies_at}, marker: {tmp_path}/died}}"
        return [f"run.uri={tmp_path}/{run}", own, "train.validate_every=0", *more]

    train(recipe, options("calm", -1, "train.workers=0"))
    result = train(recipe, options("killed", 3, "train.workers=2", "train.max_failures=2"))
    assert (tmp_path / "died").exists()
    assert result.step == 5
    losses = [line["loss"] for line in figures(tmp_path / "calm")]
    assert [line["loss"] for line in figures(tmp_path / "killed")] == pytest.approx(losses, abs=1e-4)
    assert_close(trained(tmp_path / "killed"), trained(tmp_path / "calm"))
