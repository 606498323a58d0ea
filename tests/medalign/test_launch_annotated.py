"""Runs on annotated images: classes come from the corpus, a run goes on from another, a frozen encoder stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from annotated_corpus import CLASSES, MASKS, write_annotated
from striped_corpus import write_corpus

from medalign import checkpoint, train
from medalign.checkpoint.trained_encoder import open_encoder
from medalign.checkpoint.trained_module import open_trained
from medalign.errors import CorpusError, PlanError, RecipeError, RunError
from medalign.launch import dry_run

HEADS: dict[str, dict[str, Any]] = {
    "classification": {"hidden": [8]},
    "segmentation": {"widths": [16, 8], "stem_width": 8},
    "detection": {"width": 16, "depth": 1},
    "detr": {"width": 16, "heads": 2, "layers": 1, "mlp_size": 16, "queries": 5},
    "box_prompts": {"width": 16, "layers": 1, "heads": 2, "mlp_size": 16},
}
RECIPE = {
    "run": {"seed": 4, "uri": "unset"},
    "data": {"image_size": 48, "shuffle_rows": 24, "views": {"jitter": 0.0, "grey": 0.0, "blur": 0.0}},
    "model": {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "optimizer": {"type": "adam", "learning_rate": 3e-3},
    "train": {"workers": 0, "micro_batch": 8, "global_batch": 8, "steps": 4, "zero_stage": 0, "validate_every": 4},
    "tracking": {"log_every": 1, "tensorboard": False},
}
BEST = {
    "classification": "accuracy",
    "segmentation": "dice",
    "detection": "mean_iou",
    "detr": "-loss",
    "box_prompts": "dice",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_annotated(tmp_path_factory.mktemp("corpora") / "shapes", {"train": 32, "val": 16, "test": 16})


def write_recipe(at: Path, corpus: str, kind: str, **objective: Any) -> str:
    recipe = {**RECIPE, "objective": {"type": kind, **HEADS[kind], **objective}}
    recipe["data"] = {**RECIPE["data"], "corpus": corpus}
    recipe["train"] = {**RECIPE["train"], "best": BEST[kind]}
    (at / f"{kind}.yaml").write_text(yaml.safe_dump(recipe))
    return str(at / f"{kind}.yaml")


@pytest.mark.parametrize("kind", HEADS)
def test_a_run_learns_the_classes_of_its_corpus_and_is_opened_whole(kind: str, corpus: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, corpus, kind)
    result = train(recipe, [f"run.uri={tmp_path}/run"])
    assert (result.step, result.skipped) == (4, 0)
    assert result.last["validation"].keys() >= {"loss", BEST[kind].removeprefix("-")}
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert tuple(stored["objective"]["classes"]) == (MASKS if kind in ("segmentation", "box_prompts") else CLASSES)
    module, settings = open_trained(f"{tmp_path}/run")
    assert list(settings.classes) == stored["objective"]["classes"]
    saved = checkpoint.latest(f"{tmp_path}/run")
    assert saved is not None
    kept = checkpoint.weights(saved)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in kept.items())


@pytest.mark.slow
def test_a_run_on_ray_trains_what_one_process_trains(corpus: str, ray_local: None, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, corpus, "detection")
    more = ["train.micro_batch=4", "train.steps=3", "train.validate_every=0"]
    alone = train(recipe, [f"run.uri={tmp_path}/alone", *more])
    shared = train(recipe, [f"run.uri={tmp_path}/shared", "train.workers=2", *more])
    assert shared.last["train"]["loss"] == pytest.approx(alone.last["train"]["loss"], abs=1e-4)


def test_a_run_goes_on_from_another_run_s_encoder(corpus: str, tmp_path: Path) -> None:
    first = write_recipe(tmp_path, corpus, "segmentation")
    train(first, [f"run.uri={tmp_path}/first"])
    second = write_recipe(tmp_path, corpus, "classification", frozen=True)
    train(second, [f"run.uri={tmp_path}/second", f"model.source={tmp_path}/first"])
    source = open_encoder(f"{tmp_path}/first").state_dict()
    for found in (open_encoder(f"{tmp_path}/second"), open_trained(f"{tmp_path}/second")[0].encoder):
        for name, value in found.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert np.array_equal(value.numpy(), source[name].numpy()), name  # not even by rounding
    saved = checkpoint.latest(f"{tmp_path}/second")
    assert saved is not None
    assert not any(name.startswith("encoder.") for name in checkpoint.weights(saved))


def test_a_corpus_without_what_the_objective_reads_is_refused_before_anything_starts(tmp_path: Path) -> None:
    stripes = write_corpus(tmp_path / "stripes", {"train": 32, "val": 16})
    for kind, message in (("segmentation", "its images have no masks"), ("detection", "its images have no boxes")):
        with pytest.raises(CorpusError, match=message):
            dry_run(write_recipe(tmp_path, stripes, kind), [f"run.uri={tmp_path}/run"])
    assert not (tmp_path / "run").exists()


def test_classes_that_are_not_the_corpus_s_and_a_figure_of_another_objective_are_refused(
    corpus: str, tmp_path: Path
) -> None:
    with pytest.raises(
        PlanError, match=r"objective.classes=\['ill', 'well'\], but the corpus has \['disc', 'square'\]"
    ):
        dry_run(write_recipe(tmp_path, corpus, "classification", classes=["ill", "well"]))
    with pytest.raises(RecipeError, match="write train.best=dice"):
        dry_run(write_recipe(tmp_path, corpus, "segmentation"), ["train.best=matching_accuracy"])


def test_a_run_without_predictions_says_what_to_do(corpus: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = {"run": {"seed": 0}, "data": {}, "model": {"type": "resnet"}, "objective": {"type": "lvm_med"}}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RunError, match="makes no predictions; train one of classification"):
        open_trained(str(tmp_path / "run"))
