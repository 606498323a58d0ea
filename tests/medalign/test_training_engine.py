"""The engine: one gradient whatever the world and the stage; nothing non-finite gets in; what is saved comes back."""

from typing import Any

import numpy as np
import pytest
import torch
from striped_corpus import write_corpus
from training_cases import plan_of, recipe_of
from training_rig import Case, run_worlds

from medalign.checkpoint import latest, weights
from medalign.launch.worker import build_module
from medalign_core.ops.draws import draw_seed

STAGES = (0, 1, 2, 3)
PRECISIONS = [(stage, precision) for precision in ("fp32", "bf16") for stage in STAGES]
STEPS = {"steps": 1, "rate": 1e-3}
# (name, keys of recipe_of): objectives whose first step every world and stage must compute alike
FIRST_STEPS: dict[str, dict[str, Any]] = {
    **{f"lvm_med zero {stage}": {"objective": "lvm_med", "zero_stage": stage} for stage in STAGES},
    # 3 micro-batches: two ranks need a padding one; a vision transformer's own dropout is keyed as well
    "padded zero 1": {"objective": "info_nce", "global_batch": 24, "zero_stage": 1},
    "padded zero 3": {"objective": "info_nce", "global_batch": 24, "zero_stage": 3},
    "dropout zero 2": {"objective": "info_nce", "model": "vit", "zero_stage": 2},
}
# each of these runs meets a loss that is not finite on its way to its checkpoint, some a gradient
POISONS = [("saved", stage, precision) for stage, precision in PRECISIONS]
POISONS += [("gradient", 0, "fp32"), ("gradient", 2, "fp32"), ("gradient", 3, "fp32"), ("gradient", 1, "bf16")]
CROSSINGS = [(2, 1), (2, 2), (1, 2)]  # ranks that wrote, ranks that read

pytestmark = pytest.mark.timeout(600)  # the first test pays for the ranks
Results = dict[int, dict[tuple, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 70})


@pytest.fixture(scope="module")
def results(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return [world][what] -> each rank's result; one start of the ranks serves all tests of this file."""
    folder = tmp_path_factory.mktemp("rig")

    def run_of(world: int, *name: object) -> str:
        return str(folder / "runs" / "-".join(map(str, (world, *name))))

    jobs: dict[int, dict[tuple, Case]] = {1: {}, 2: {}}
    for world, found in jobs.items():

        def add(key: tuple, function: str, found: dict = found, **arguments: Any) -> None:
            found[key] = Case(function, {"corpus": corpus, **arguments})

        for stage, precision in PRECISIONS:
            run, keys = run_of(world, "saved", stage, precision), keys_of(stage, precision)
            add(("saved", stage, precision), "train", run=run, stop_at=3, poison=(1, 1, "loss"), **keys)
        for name, keys in FIRST_STEPS.items():
            add(("first", name), "train", run=run_of(world, "first", name), **(STEPS | keys))
        for kind, stage, precision in POISONS:
            run, keys = run_of(world, kind, stage, precision), keys_of(stage, precision)
            if kind == "gradient":
                add((kind, stage, precision), "train", run=run, poison=(1, 1, kind), **(keys | {"steps": 3}))
        for stage, precision in PRECISIONS:
            for writer in (writer for writer, reader in CROSSINGS if reader == world):
                at = run_of(writer, "saved", stage, precision)
                keys = keys_of(stage, precision)
                add(("reload", stage, precision, writer), "reload", run="unused", at=at, **keys)
        for stage in STAGES if world == 2 else ():
            at, keys = run_of(2, "saved", stage, "fp32"), keys_of((stage + 1) % 4, "fp32")
            add(("other stage", stage), "reload", run="unused", at=at, **keys)
    found = run_worlds({world: list(cases.values()) for world, cases in jobs.items()}, folder / "rig")
    return {world: dict(zip(jobs[world], found[world], strict=True)) for world in jobs}


def keys_of(stage: int, precision: str) -> dict[str, Any]:
    return {"zero_stage": stage, "precision": precision, "objective": "info_nce", "steps": 4}


def relative(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return |found - expected| / |expected| over all tensors."""
    assert found.keys() == expected.keys()
    off = sum(float(((found[n].astype(np.float64) - v) ** 2).sum()) for n, v in expected.items())
    return (off / sum(float((v.astype(np.float64) ** 2).sum()) for v in expected.values())) ** 0.5


Arrays = dict[str, np.ndarray]


def plain_first_step(corpus: str, keys: dict[str, Any]) -> tuple[float, Arrays, Arrays]:
    """Return (loss, gradient, buffers) of step 1 by plain PyTorch, micro-batch after micro-batch."""
    recipe = recipe_of("unused", corpus, **(STEPS | keys))
    plan, module = plan_of(recipe, 1), build_module(recipe)
    count, losses = plan.stream.order.micro_batches, []
    for batch in plan.stream.plain(0, start=0, stop=1):
        torch.manual_seed(draw_seed(recipe.run.seed, "forward", 0, batch.key.index))
        loss, _ = module(batch)
        (loss / count).backward()
        losses.append(loss.item())
    gradient = {n: p.grad.numpy() for n, p in module.named_parameters() if p.grad is not None}
    return float(np.mean(losses)), gradient, {n: b.numpy() for n, b in module.named_buffers() if "running" in n}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", FIRST_STEPS)
def test_step_1_is_plain_pytorch_s_for_every_world_and_stage(
    results: Results, corpus: str, name: str, world: int
) -> None:
    loss, gradient, buffers = plain_first_step(corpus, FIRST_STEPS[name])
    for rank in results[world]["first", name]:
        assert relative(rank["gradients"], gradient) < 1e-5
        if buffers:  # a batch norm's running statistics, updated micro-batch after micro-batch as by one process
            assert relative(rank["buffers"], buffers) < 1e-6
    (line,) = results[world]["first", name][0]["lines"]
    assert line["loss"] == pytest.approx(loss, abs=1e-6)
    norm = sum(float((g.astype(np.float64) ** 2).sum()) for g in gradient.values()) ** 0.5
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("kind", "stage", "precision"), POISONS)
def test_a_non_finite_loss_or_gradient_changes_no_weight(
    results: Results, kind: str, stage: int, precision: str, world: int
) -> None:
    for rank in results[world][kind, stage, precision]:
        before, poisoned, after = rank["digests"]
        assert [applied for _, _, applied in rank["digests"]] == [True, False, True]
        assert all(finite for _, finite, _ in rank["digests"])
        assert poisoned[0] == before[0] != after[0]  # weights and optimizer, bit for bit
        assert (rank["state"].skipped, rank["state"].step) == (1, 3)
        assert all(np.isfinite(values).all() for values in rank["buffers"].values())
    lines = results[world][kind, stage, precision][0]["lines"]
    assert [line["skipped"] for line in lines] == [0, 1, 1]
    assert "loss" not in lines[1]  # the figures of a step that was not applied are not averaged in
    assert np.isfinite([lines[0]["loss"], lines[2]["loss"]]).all()


@pytest.mark.parametrize(("writer", "reader"), CROSSINGS)
@pytest.mark.parametrize(("stage", "precision"), PRECISIONS)
def test_a_checkpoint_comes_back_bit_for_bit_on_any_world(
    results: Results, stage: int, precision: str, writer: int, reader: int
) -> None:
    saved = results[writer]["saved", stage, precision][0]
    for rank in results[reader]["reload", stage, precision, writer]:
        assert_same(rank["tensors"], saved["tensors"])
        assert_same(rank["buffers"], saved["buffers"])
        assert rank["optimizer_step"] == 2  # of the three steps one was not applied


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_comes_back_bit_for_bit_at_another_stage(results: Results, stage: int) -> None:
    saved = results[2]["saved", stage, "fp32"][0]
    for rank in results[2]["other stage", stage]:
        assert_same(rank["tensors"], saved["tensors"])
        assert_same(rank["buffers"], saved["buffers"])


def test_a_checkpoint_s_files_hold_what_the_engine_held(results: Results) -> None:
    for world in (1, 2):
        rank = results[world]["saved", 1, "fp32"][0]
        saved = latest(rank["run"])
        assert saved is not None
        assert (saved.state.step, saved.state.skipped) == (3, 1)
        held = {name: value.numpy() for name, value in weights(saved).items()}
        own = {name: value for name, value in rank["tensors"].items() if "/" not in name}
        assert_same(held, own | rank["buffers"])


def test_adam_s_tensors_are_among_what_is_saved(results: Results) -> None:
    for stage, precision in PRECISIONS:
        tensors = results[2]["saved", stage, precision][0]["tensors"]
        weights_ = {name for name in tensors if "/" not in name}
        assert tensors.keys() == {f"{name}{part}" for name in weights_ for part in ("", "/exp_avg", "/exp_avg_sq")}
        assert all(np.abs(tensors[f"{name}/exp_avg_sq"]).max() > 0 for name in weights_)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not np.array_equal(found[name], value)]
    assert different == []
