"""A comparison of pretraining objectives, whole and small: cells, resuming, floors, the table and what it declares."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from few_shot_recipe import write_classes

from medalign.errors import CorpusError, RecipeError
from medalign.evaluation.result import Samples
from medalign.pretraining import Comparison, compare_pretraining, open_comparison
from medalign.pretraining.cells import Cell, write_cell
from medalign.pretraining.images import Images, TaskImages, read_task
from medalign.pretraining.probing import with_few_labels
from medalign.pretraining.settings import Primary, Probing, Task, scarce
from medalign.pretraining.summary import summarise
from medalign_core.metrics.intervals import holm

CLASSES = ("cat", "dog", "photo")
BASE = {
    "run": {"uri": "unset"},
    "data": {"corpus": "unset", "image_size": 32, "shuffle_rows": 16},
    "model": {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "objective": {"type": "lvm_med", "graph_size": 8, "neighbours": 3, "projection_size": 16, "graph_width": 16},
    "train": {"micro_batch": 16, "global_batch": 16, "steps": 1},
    "tracking": {"log_every": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two corpora of the same classes, the base recipe, a comparison of two arms, and its results."""
    at = tmp_path_factory.mktemp("comparison")
    write_classes(at / "here", {"train": 16, "val": 6, "test": 8}, classes=CLASSES)
    write_classes(at / "there", {"test": 6}, classes=CLASSES, shift=20)
    (at / "base.yaml").write_text(yaml.safe_dump(BASE))
    comparison = {
        "out": str(at / "out"),
        "base": str(at / "base.yaml"),
        "arms": {"lvm_med": [], "byol": ["objective={type: byol}"]},
        "tasks": {
            "set": {
                "corpus": str(at / "here"),
                "tests": {"own": str(at / "here"), "shifted": str(at / "there")},
                "steps": 3,
                "most": 20,
            }
        },
        "primary": {"method": "lvm_med", "against": "byol", "task": "set", "test": "shifted"},
        "seeds": [0, 1],
        "probing": {"shots": [1, 4], "replicates": 50, "imagenet_size": 32, "neighbours": [1, 5]},
    }
    (at / "comparison.yaml").write_text(yaml.safe_dump(comparison, sort_keys=False))
    compare_pretraining(open_comparison(str(at / "comparison.yaml")))
    return at


def test_every_method_has_a_cell_per_seed_with_every_head_and_test(place: Path) -> None:
    comparison = open_comparison(str(place / "comparison.yaml"))
    assert comparison.methods == ("lvm_med", "byol", "random", "pixels", "mean_colour", "image_extent", "imagenet")
    for method in comparison.methods:
        for seed in (0, 1):
            table = pq.read_table(place / "out" / Cell(task="set", method=method, seed=seed).path)
            found = set(zip(table["head"].to_pylist(), table["test"].to_pylist(), strict=True))
            assert found == {(head, test) for head in comparison.heads for test in ("own", "shifted")}
            assert len(table) == 4 * (20 + 18)  # heads times test images, of which `most` were taken
            np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()).sum(1), 1, rtol=1e-5)


def test_a_second_call_runs_nothing_and_a_new_arm_runs_alone(place: Path) -> None:
    said: list[str] = []
    results = compare_pretraining(open_comparison(str(place / "comparison.yaml")), progress=said.append)
    assert said == ["set: 0 of 14 cells to run"]
    assert (place / "out" / "results.md").read_text() == results.markdown()
    said.clear()
    grown = ["arms={lvm_med: [], byol: ['objective={type: byol}'], swav: ['objective={type: swav, prototypes: 6}']}"]
    compare_pretraining(open_comparison(str(place / "comparison.yaml"), grown), progress=said.append)
    assert said[0] == "set: 2 of 16 cells to run"
    assert [line.split(",")[1].strip() for line in said[1:]] == ["swav", "swav"]


def test_arms_of_one_seed_begin_with_the_same_weights_and_see_the_same_order(place: Path) -> None:
    recipes = [
        yaml.safe_load((place / "out" / "runs" / "set" / f"{name}-seed1" / "recipe.yaml").read_text())
        for name in ("lvm_med", "byol")
    ]
    for recipe in recipes:
        recipe.pop("objective")
        recipe["run"].pop("uri")
    assert recipes[0] == recipes[1]


def test_floors_are_the_same_for_every_seed_but_for_the_scarce_supports(place: Path) -> None:
    tables = [pq.read_table(place / "out" / "cells" / "set" / f"pixels-seed{seed}.parquet") for seed in (0, 1)]
    heads = np.array(tables[0]["head"].to_pylist())
    probabilities = [np.array(table["probabilities"].to_pylist()) for table in tables]
    assert np.array_equal(*(p[heads == "logistic"] for p in probabilities))
    assert not np.array_equal(*(p[heads == scarce(1)] for p in probabilities))


def test_the_table_names_the_declared_comparison_and_the_costs(place: Path) -> None:
    text = (place / "out" / "results.md").read_text()
    assert "**lvm_med - byol** (primary)" in text
    assert "**set**, tested on shifted: balanced accuracy" in text
    assert "| method | linear probe | k-NN | linear probe, AUROC | k-NN, AUROC | 1 per class | 4 per class |" in text
    assert "| random | 0, " in text  # no pretraining, and yet a spread of features


def test_arms_that_cannot_be_compared_are_refused_before_anything_runs(place: Path) -> None:
    def opened(*keys: str) -> Comparison:
        return open_comparison(str(place / "comparison.yaml"), [f"out={place / 'refused'}", *keys])

    with pytest.raises(RecipeError, match="arms differ in data.image_size, \\[32, 48\\]"):
        compare_pretraining(opened("arms={lvm_med: [], byol: [data.image_size=48]}"))
    with pytest.raises(RecipeError, match="did you mean objective.alpha"):
        compare_pretraining(opened("arms={lvm_med: [], byol: [objective.alfa=1]}"))
    with pytest.raises(RecipeError, match="'pixels' is the name of what arms are compared with"):
        opened("arms={lvm_med: [], byol: [], pixels: []}")
    with pytest.raises(RecipeError, match="primary names 'moco'"):
        opened("primary.against=moco")
    assert not (place / "refused").exists()


def test_a_test_of_other_classes_is_refused(place: Path, tmp_path: Path) -> None:
    other = write_classes(tmp_path / "other", {"test": 4}, classes=("cat", "dog"))
    with pytest.raises(CorpusError, match="test 'other' has the classes"):
        read_task(Task(corpus=str(place / "here"), tests={"other": other}, steps=1), size=32)


def images_of(count: int = 40) -> TaskImages:
    """Images without pixels, of two classes, four to a patient."""
    labels = np.arange(count) % 2
    samples = Samples(
        ids=np.array([f"image {i}" for i in range(count)], dtype=object),
        groups=np.array([f"patient {i // 4}" for i in range(count)], dtype=object),
        labels=labels,
    )
    nothing = np.zeros((count, 3, 1, 1), dtype=np.uint8)
    part = Images(corpus="c", split="s", pixels=nothing, samples=samples, extents=np.zeros((count, 2)))
    return TaskImages(classes=("no", "yes"), parts={"train": part, "test": part, "easy": part})


def by_hand(out: Path) -> Comparison:
    """A comparison whose cells are written by hand: each method is right on a share of whole patients."""
    right = {"a": 0.8, "b": 0.5, "random": 0.5, "pixels": 0.6, "mean_colour": 0.5, "image_extent": 0.5}
    comparison = Comparison(
        out=str(out),
        base="unused",
        arms={"a": (), "b": ()},
        tasks={"set": Task(corpus="c", tests={"test": "c", "easy": "c"}, steps=1)},
        primary=Primary(method="a", against="b", task="set", test="test"),
        imagenet=False,
        probing=Probing(shots=(), replicates=300),
    )
    images = images_of()
    for method, share in right.items():
        for seed in comparison.seeds:
            predicted = {}
            for test in ("test", "easy"):
                labels = images.parts[test].samples.labels
                is_right = np.arange(40) // 4 < round((0.9 if test == "easy" else share) * 10)
                called = np.where(is_right, labels, 1 - labels)
                predicted |= {(head, test): 0.2 + 0.6 * np.eye(2)[called] for head in comparison.heads}
            uri = out / Cell(task="set", method=method, seed=seed).path
            write_cell(str(uri), "key", predicted, images, {"cpu_seconds": 2.0 + seed, "embedding_std": 0.5})
    return comparison


def test_the_summary_is_of_the_cells_and_corrects_the_secondary_comparisons_alone(tmp_path: Path) -> None:
    results = summarise(by_hand(tmp_path))
    of = {
        (e.method, e.test): e.value for e in results.entries if (e.head, e.metric) == ("logistic", "balanced_accuracy")
    }
    assert of["a", "test"].estimate == pytest.approx(0.8)
    assert of["a", "test"].low < 0.8 < of["a", "test"].high
    assert results.saturated == ("easy",)  # every method is as good there
    assert results.ranking == (("a", pytest.approx(0.8)), ("b", pytest.approx(0.5)))
    primary, *others = results.verdicts
    assert (primary.method, primary.against, primary.role) == ("a", "b", "primary")
    assert primary.difference.estimate == pytest.approx(0.3)
    assert primary.adjusted == primary.difference.p_value
    assert [v.adjusted for v in others] == pytest.approx(holm([v.difference.p_value for v in others]))
    cost = next(c for c in results.costs if c.method == "a")
    assert (cost.cpu_seconds, cost.embedding_std, cost.effective_rank) == (3.0, 0.5, 0.0)
    assert "saturated: a floor comes within 3 points of the best" in results.markdown()


def test_few_labels_are_nested_supports_of_the_training_images_alone() -> None:
    images = images_of()
    draws = np.random.default_rng(0)
    centres = np.array([[-3.0, 0.0], [3.0, 0.0]])[images.parts["train"].samples.labels]
    features = {name: centres + draws.normal(size=centres.shape) for name in images.parts}
    predicted = with_few_labels(features, images, Probing(shots=(1, 8)), seed=0)
    labels = images.parts["test"].samples.labels
    assert predicted.keys() == {(scarce(shots), test) for shots in (1, 8) for test in ("test", "easy")}
    assert (predicted[scarce(8), "test"].argmax(1) == labels).mean() > 0.9
    again = with_few_labels(features, images, Probing(shots=(1, 8)), seed=0)
    assert all(np.array_equal(predicted[key], again[key]) for key in predicted)
