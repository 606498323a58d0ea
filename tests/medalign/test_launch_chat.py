"""Runs of a multimodal model from recipe to export: losses fall, a resumed run is the same, what is frozen stays."""

import json
import shutil
from pathlib import Path

import drawn_chats
import numpy as np
import pytest
import torch
import yaml

from medalign import checkpoint, train
from medalign.checkpoint import weights
from medalign.checkpoint.trained_chat import open_chat_model
from medalign.cli import main
from medalign.errors import CorpusError, PlanError, RecipeError, UserError
from medalign.exporting import export
from medalign.launch import dry_run
from medalign.multimodal_models import open_multimodal
from medalign.reports.page import report
from medalign.tracking.events import INERT, NOTHING_ALIGNED
from medalign_core.models.multimodal.freezing import fingerprint
from medalign_core.models.multimodal.settings import Llava

STEPS, MIDDLE = 8, 5
ALL = ("logra_med", "autoregressive", "chat_info_nce", "chat_siglip", "chat_transport", "chat_vlap")
RECIPE = {
    "run": {"seed": 4},
    "data": {"image_size": drawn_chats.SIDE, "shuffle_rows": 24},
    "model": {"type": "llava", "language": "tiny_bytes", "max_length": 300},
    "objective": {"type": "logra_med", "graph_width": 16, "neighbours": 2, "graph_dropout": 0.2},
    "optimizer": {"type": "adamw", "learning_rate": 5e-3},
    "train": {
        "workers": 0,
        "micro_batch": 8,
        "global_batch": 24,
        "steps": STEPS,
        "zero_stage": 0,
        "checkpoint_every": MIDDLE,
    },
    "tracking": {"log_every": 1, "tensorboard": False},
}
CLOCK = {"images_per_second", "data_wait", "seconds", "solver_seconds"}


def tear_one(split: str, i: int, row: dict) -> None:
    if split == "train" and i == 9:
        row["image"] = row["image"][:50]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a corpus, a tower, a recipe and the run of it lie; the run is of this process."""
    at = tmp_path_factory.mktemp("chats")
    corpus = drawn_chats.write_corpus(at / "corpus", {"train": 66, "val": 16}, tear_one)
    tower = drawn_chats.write_tower(at / "tower")
    data, model = {**RECIPE["data"], "corpus": corpus, "max_bad_share": 0.1}, {**RECIPE["model"], "vision": tower}
    recipe = {**RECIPE, "run": {"seed": 4, "uri": "unset"}, "data": data, "model": model}
    (at / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    result = train(str(at / "tiny.yaml"), [f"run.uri={at / 'run'}", "train.validate_every=4"])
    assert (result.step, result.skipped) == (STEPS, 0)
    return at


def figures(run: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in line.items() if n not in CLOCK} for line in lines if line["kind"] == kind]


def trained(run: Path) -> dict[str, np.ndarray]:
    saved = checkpoint.latest(str(run))
    assert saved is not None
    return {name: value.numpy() for name, value in weights(saved).items()}


def test_losses_fall_and_what_the_alignment_does_is_logged(place: Path) -> None:
    lines = figures(place / "run")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["ar_loss"] < 0.8 * lines[0]["ar_loss"]
    for line in lines:
        assert 0 <= line["matching_accuracy"] <= 1
        assert {"hamming_image", "matching_accuracy_extended", "unmatched_rate"} <= line.keys()
        assert 0 <= line["duplicate_rate"] < 1
        assert line["aligned_samples"] > 0
    assert max(line["duplicate_rate"] for line in lines) > 0  # the same colour and direction in a micro-batch
    assert sum(line["holes"] for line in lines) > 0
    assert len(figures(place / "run", "validation")) == 2


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > 4:  # the best one is of a validation at step 4
            shutil.rmtree(folder)
    start = checkpoint.latest(str(tmp_path / "run"))
    assert start is not None
    assert start.state.step == 4
    train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'run'}", "train.validate_every=4"])
    for kind in ("train", "validation"):
        assert figures(tmp_path / "run", kind) == figures(place / "run", kind)
    whole, resumed = trained(place / "run"), trained(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_checkpoints_hold_what_trains_and_nothing_of_the_tower(place: Path) -> None:
    names = trained(place / "run").keys()
    assert not any("vision_tower" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert any("language_model.layers" in name for name in names)
    assert any(name.startswith("alignment.") for name in names)


def test_an_export_opens_as_the_trained_model_with_the_tower_as_it_was(place: Path, tmp_path: Path) -> None:
    assert "config.json" in export(str(place / "run"), str(tmp_path / "out"), checkpoint="latest").files
    again = open_multimodal(Llava(source=str(tmp_path / "out")))
    trained_model = open_chat_model(str(place / "run"), checkpoint="latest").model
    fresh = open_multimodal(Llava(language="tiny_bytes", vision=str(place / "tower")), seed=4).model
    assert fingerprint(again.model.network) == fingerprint(trained_model.network)
    tower = "network.model.vision_tower"
    assert fingerprint(again.model.get_submodule(tower)) == fingerprint(fresh.get_submodule(tower))
    assert fingerprint(again.model.network) != fingerprint(fresh.network)
    for name, value in trained(place / "run").items():
        if name.startswith("model."):
            assert np.array_equal(again.model.get_parameter(name.removeprefix("model.")).detach(), value), name
    # the next stage starts from it, in the recipe's words
    more = [f"run.uri={tmp_path / 'vqa'}", f"model.source={tmp_path / 'out'}", "model.stage=vqa", "train.steps=1"]
    assert train(str(place / "tiny.yaml"), [*more, "objective={type: autoregressive}"]).step == 1


def test_stage_1_trains_the_projector_and_the_new_rows_alone(place: Path, tmp_path: Path) -> None:
    options = ["model.stage=1", "objective={type: autoregressive}", "train.steps=2"]
    train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'run'}", *options])
    names = trained(tmp_path / "run").keys()
    assert names
    assert all("multi_modal_projector" in name or name == "model.new_rows" for name in names)


def test_low_rank_updates_train_resume_and_are_folded_into_the_export(place: Path, tmp_path: Path) -> None:
    options = ["model.lora={rank: 4}", "train.steps=4", "train.checkpoint_every=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(str(place / "tiny.yaml"), [f"run.uri={whole}", *options])
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000004")
    start = checkpoint.latest(str(cut))
    assert start is not None
    assert start.state.step == 2
    assert train(str(place / "tiny.yaml"), [f"run.uri={cut}", *options]).step == 4
    first, second = trained(whole), trained(cut)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    others = {name for name in first if ".lora_" not in name and "multi_modal_projector" not in name}
    assert all(name.startswith("alignment.") for name in others)  # the language model itself is not trained
    assert any(np.any(value) for name, value in first.items() if ".lora_B" in name)
    export(str(whole), str(tmp_path / "out"), checkpoint="latest")
    folded = open_multimodal(Llava(source=str(tmp_path / "out"))).model
    fresh = open_multimodal(Llava(language="tiny_bytes", vision=str(place / "tower")), seed=4).model
    changed = {name for name, value in folded.named_parameters() if not torch.equal(value, fresh.get_parameter(name))}
    assert {name.rpartition(".weight")[0].rpartition(".")[2] for name in changed if "language_model" in name} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }


@pytest.mark.parametrize("objective", ALL[1:])
def test_every_objective_of_conversations_trains_from_a_recipe(place: Path, tmp_path: Path, objective: str) -> None:
    graphs = "" if objective == "autoregressive" else ", graphs: [image, answer]"
    options = [f"objective={{type: {objective}{graphs}}}", "train.steps=2"]
    result = train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'run'}", *options])
    assert np.isfinite(result.last["train"]["loss"])
    assert ("alignment_loss" in result.last["train"]) == bool(graphs)


def test_sharded_optimizer_states_train_the_same(place: Path, tmp_path: Path) -> None:
    options = ["train.zero_stage=1", "train.validate_every=4"]
    train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'run'}", *options])
    for name, value in trained(place / "run").items():
        np.testing.assert_allclose(trained(tmp_path / "run")[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_an_inert_alignment_and_one_of_nothing_are_told_at_the_first_step(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = "graphs: [answer, extended], centring: true, noise_scale: 0, threshold: null"
    inert = f"objective={{type: logra_med, message_passing: none, {plain}}}"
    train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'inert'}", inert, "train.steps=2"])
    assert figures(tmp_path / "inert")[0]["matching_accuracy"] > 0.95
    (event,) = figures(tmp_path / "inert", "event")
    assert (event["step"], event[INERT]) == (1, figures(tmp_path / "inert")[0]["matching_accuracy"])
    assert "warning: the alignment is inert" in capsys.readouterr().out
    assert "The alignment is inert: matching accuracy" in Path(report(str(tmp_path / "inert"))).read_text()

    drawn_chats.write_corpus(
        tmp_path / "short", {"train": 24}, lambda _split, _i, row: row.update(conversations_long=None)
    )
    short = [f"data.corpus={tmp_path / 'short'}", f"run.uri={tmp_path / 'nothing'}", "train.steps=1"]
    train(str(place / "tiny.yaml"), short)
    assert NOTHING_ALIGNED in figures(tmp_path / "nothing", "event")[0]
    assert "warning: nothing is aligned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("objective={type: lvm_med}", RecipeError, "objective.type.*needs an image encoder"),
        ("model={type: vit}", RecipeError, "objective.type.*needs model.type: llava"),
        ("model.text_nodes=in_context", RecipeError, "objective.graphs.*gives no extended nodes"),
        ("train.micro_batch=1", RecipeError, "micro_batch must be >= 2"),
        ("data.image_size=64", PlanError, "data.image_size=64, but the model's tower reads 32 px"),
        ("model.language=/nowhere", UserError, "model.language = /nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(
    place: Path, tmp_path: Path, override: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'run'}", override])


def test_a_corpus_without_words_is_refused_before_anything_starts(place: Path, tmp_path: Path) -> None:
    drawn_chats.striped_corpus.write_corpus(tmp_path / "stripes", {"train": 24})
    with pytest.raises(CorpusError, match="a corpus of images without conversations"):
        dry_run(str(place / "tiny.yaml"), [f"data.corpus={tmp_path / 'stripes'}"])


@pytest.mark.parametrize(
    ("name", "steps", "graphs"),
    [
        ("tiny", 60, 4),
        ("stage1_llama7b", 1, None),
        ("stage2_llama7b", 6, 12),
        ("stage1_mistral7b", 1, None),
        ("stage2_mistral7b", 6, 12),
    ],
)
def test_shipped_recipes_print_their_plan_without_opening_weights(
    place: Path, tmp_path: Path, name: str, steps: int, graphs: int | None
) -> None:
    corpus = drawn_chats.write_corpus(tmp_path / "corpus", {"train": 130})
    recipe, plan = dry_run(f"logra_med/{name}", [f"data.corpus={corpus}", f"run.uri={tmp_path}/run"])
    assert (plan.total_steps, plan.graphs_per_step) == (steps, graphs)
    assert plan.stream.decoder.model == recipe.model
    with pytest.raises(SystemExit) as ended:
        main(["train", f"logra_med/{name}", f"data.corpus={corpus}", f"run.uri={tmp_path}/run", "--dry-run"])
    assert ended.value.code in (0, None)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("zero", [0, 1])
def test_two_workers_on_ray_train_what_one_process_trains(place: Path, tmp_path: Path, zero: int) -> None:
    options = ["train.workers=2", f"train.zero_stage={zero}", "train.validate_every=4"]
    result = train(str(place / "tiny.yaml"), [f"run.uri={tmp_path / 'run'}", *options])
    assert (result.step, result.skipped) == (STEPS, 0)
    names = ("loss", "ar_loss", "hamming", "matching_accuracy", "duplicate_rate", "holes")
    for line, other in zip(figures(place / "run"), figures(tmp_path / "run"), strict=True):
        for name in names:
            assert other[name] == pytest.approx(line[name], abs=2e-3), (line["step"], name)
    for name, value in trained(place / "run").items():
        torch.testing.assert_close(
            torch.from_numpy(trained(tmp_path / "run")[name]), torch.from_numpy(value), rtol=1e-3, atol=2e-3
        )


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_gradient_norms_of_both_losses_are_logged_and_change_nothing(
    place: Path, tmp_path: Path, zero_stage: int
) -> None:
    options = ["train.steps=4", "train.checkpoint_every=0", f"train.zero_stage={zero_stage}"]
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    train(str(place / "tiny.yaml"), [f"run.uri={plain}", *options])
    train(str(place / "tiny.yaml"), [f"run.uri={measured}", "train.part_norms_every=2", *options])
    norms = ("ar_gradient", "alignment_gradient")
    lines = figures(measured)
    assert [all(line.get(name, 0) > 0 for name in norms) for line in lines] == [False, True, False, True]
    assert [{n: v for n, v in line.items() if n not in norms} for line in lines] == figures(plain)
    assert all(np.array_equal(value, trained(measured)[name]) for name, value in trained(plain).items())


def test_gradient_norms_are_refused_where_they_cannot_be_measured(place: Path) -> None:
    with pytest.raises(RecipeError, match="part_norms_every needs whole weights"):
        train(str(place / "tiny.yaml"), ["run.uri=unused", "train.part_norms_every=2", "train.zero_stage=3"])
