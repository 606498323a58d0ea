"""Evaluation of runs on annotated images: what is stored gives the scores again, subgroups, volumes, shifts."""

import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from annotated_corpus import CLASSES, MASKS, write_annotated
from PIL import Image
from test_launch_annotated import BEST, write_recipe

from medalign import report, train
from medalign.data.images import decode_mask, encode_mask
from medalign.errors import CorpusError, UserError
from medalign.evaluation.annotated import result as results
from medalign.evaluation.annotated.classification import score_classification
from medalign.evaluation.annotated.compare import compare_annotated
from medalign.evaluation.annotated.detection import score_detection
from medalign.evaluation.annotated.examples import LeftOut, read_examples
from medalign.evaluation.annotated.predicting import SCHEMAS
from medalign.evaluation.annotated.scored import score_subgroups
from medalign.evaluation.annotated.segmentation import score_segmentation
from medalign.evaluation.annotated.settings import AnnotatedSettings
from medalign.evaluation.annotated.shifts import SHIFTS, shift_image
from medalign.evaluation.annotated.task import TASKS, evaluate_annotated, rescore

QUICK = AnnotatedSettings(replicates=50)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_annotated(tmp_path_factory.mktemp("corpora") / "shapes", {"train": 32, "val": 16, "test": 24})


@pytest.fixture(scope="module")
def runs(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return a run of each task, trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in BEST:
        more = ["train.steps=25", "train.validate_every=25", "data.views.scale=[0.8,1.0]"]
        train(write_recipe(folder, corpus, kind), [f"run.uri={folder}/{kind}", *more])
    return {kind: f"{folder}/{kind}" for kind in BEST}


def examples_of(corpus: str) -> list:
    return list(read_examples(corpus, "test", size=None, fit="whole", left_out=LeftOut()))


@pytest.mark.parametrize("task", TASKS)
def test_stored_predictions_give_the_scores_again(task: str, runs: dict[str, str], corpus: str) -> None:
    found = evaluate_annotated(runs[task], corpus=corpus, task=task, settings=QUICK)
    assert found.uri == f"{runs[task]}/evaluations/shapes-{task}"
    assert results.load(found.uri).dumps() == found.dumps()
    again = rescore(found.uri)
    assert again.dumps() == found.dumps()
    assert (found.count, found.groups, found.units) == (24, 12, "image")
    assert found.classes == (MASKS if task == "segmentation" else CLASSES)
    table = pq.read_table(BytesIO(Path(found.uri, results.PREDICTIONS).read_bytes()))
    assert table.schema.equals(SCHEMAS[TASKS[task]], check_metadata=False)
    assert table["split"].to_pylist().count("test") == 24
    for value in found.metrics.values():
        assert np.isnan(value.low) or value.low <= value.estimate <= value.high
    assert found.lines()


def test_subgroups_are_the_attributes_worst_first_with_their_counts(runs: dict[str, str], corpus: str) -> None:
    found = evaluate_annotated(runs["segmentation"], corpus=corpus, task="segmentation", settings=QUICK)
    rows = {(row.attribute, row.value): row for row in found.subgroups}
    assert {key: row.units for key, row in rows.items()} == {
        ("sex", "f"): 12,
        ("sex", "not stated"): 12,
        ("site", "north"): 16,
        ("site", "south"): 8,
    }
    sites = [row.score.estimate for row in found.subgroups if row.attribute == "site"]
    assert sites == sorted(sites)


def test_another_corpus_is_said_to_be_out_of_distribution_and_thresholds_stay_those_of_the_run_s_own(
    runs: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    shifted = write_annotated(tmp_path / "bright", {"test": 16}, seed=5, shift=60)
    own = evaluate_annotated(runs["classification"], corpus=corpus, task="classification", settings=QUICK)
    other = evaluate_annotated(runs["classification"], corpus=shifted, task="classification", settings=QUICK)
    assert not any("Out of distribution" in note for note in own.notes)
    assert any("Out of distribution" in note for note in other.notes)
    assert [p.threshold for p in other.operating_points] == [p.threshold for p in own.operating_points]
    assert len(own.operating_points) == 2


def test_another_detector_is_scored_alike(runs: dict[str, str], corpus: str) -> None:
    found = evaluate_annotated(runs["detr"], corpus=corpus, task="detection", settings=QUICK)
    assert found.metrics.keys() == {"ap50", "ap"}
    assert rescore(found.uri).dumps() == found.dumps()


def test_a_prompted_model_is_given_the_boxes_of_the_truth_and_says_so(runs: dict[str, str], corpus: str) -> None:
    found = evaluate_annotated(runs["box_prompts"], corpus=corpus, task="segmentation", settings=QUICK)
    assert "Prompted" in found.notes[0]
    table = pq.read_table(BytesIO(Path(found.uri, results.PREDICTIONS).read_bytes()))
    masks = dict(zip(table["id"].to_pylist(), table["predicted"].to_pylist(), strict=True))
    for each in examples_of(corpus):
        assert set(np.unique(decode_mask(masks[each.id]))) <= set(np.unique(each.mask)) | {0}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_declared_shift_changes_the_images_and_is_called_synthetic(
    name: str, runs: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    settings = replace(QUICK, shift=name)
    found = evaluate_annotated(runs["classification"], corpus=corpus, task="classification", settings=settings)
    own = evaluate_annotated(runs["classification"], corpus=corpus, task="classification", settings=QUICK)
    assert found.uri == f"{own.uri}-{name}"
    assert found.notes[0].startswith("Synthetic shift")
    assert found.metrics != own.metrics or found.reliability != own.reliability
    assert [p.threshold for p in found.operating_points] == [p.threshold for p in own.operating_points]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    assert np.array_equal(shift_image(image, name, key="a"), shift_image(image, name, key="a"))
    with pytest.raises(ValueError, match="shift must be one of contrast"):
        AnnotatedSettings(shift="fog")


def test_images_of_the_training_are_told_from_others(runs: dict[str, str], corpus: str, tmp_path: Path) -> None:
    own = evaluate_annotated(runs["segmentation"], corpus=corpus, task="segmentation", overlap=True, settings=QUICK)
    assert own.seen == ()
    assert any("No scored image found" in note for note in own.notes)
    mixed = shutil.copytree(corpus, tmp_path / "mixed")  # a corpus whose test split is the run's training split
    (mixed / "test" / "part-00000.parquet").unlink()
    raw = json.loads((mixed / "manifest.json").read_text())
    raw["splits"]["test"] = raw["splits"].pop("train")
    raw["fingerprint"] = "mixed"
    (mixed / "manifest.json").write_text(json.dumps(raw))
    found = evaluate_annotated(
        runs["segmentation"],
        corpus=str(mixed),
        task="segmentation",
        overlap=True,
        out=f"{tmp_path}/out",
        settings=QUICK,
    )
    assert found.seen is not None
    assert len(found.seen) == found.count == 32
    rows = [row for row in found.subgroups if row.attribute == "seen in training"]
    assert [(row.value, row.units) for row in rows] == [("yes", 32)]
    assert rescore(found.uri).dumps() == found.dumps()


def test_perfect_masks_score_one_and_an_empty_one_zero(corpus: str) -> None:
    examples = examples_of(corpus)
    right = {each.id: encode_mask(each.mask, each.size) for each in examples}
    scored = score_segmentation(examples, right, MASKS, settings=QUICK)
    ones = np.ones(len(scored.ids))
    values = {name: float(statistic(ones)) for name, statistic in scored.statistics.items()}
    assert values == {
        "dice": 1,
        "iou": 1,
        "hd95": 0,
        "surface_dice": 1,
        "lesion_sensitivity": 1,
        "false_lesions": 0,
    }
    nothing = {each.id: encode_mask(np.zeros_like(each.mask), each.size) for each in examples}
    scored = score_segmentation(examples, nothing, MASKS, settings=QUICK)
    assert scored.statistics["dice"](ones) == 0
    assert scored.statistics["lesion_sensitivity"](ones) == 0
    assert np.isnan(scored.statistics["hd95"](ones))


def test_slices_are_scored_as_whole_volumes_in_three_dimensions(tmp_path: Path) -> None:
    corpus = write_annotated(tmp_path / "volumes", {"test": 12}, slices=4)
    examples = examples_of(corpus)
    masks = {}
    for each in examples:  # the prediction lacks one slice of each volume
        masks[each.id] = encode_mask(each.mask * (each.slice != 1), each.size)
    scored = score_segmentation(examples, masks, MASKS, settings=QUICK)
    assert (scored.units, len(scored.ids)) == ("volume", 3)
    for place, name in enumerate(MASKS[1:], start=1):
        values = []
        for volume in scored.ids:
            slices = [each for each in examples if each.volume == volume]
            total = sum(int((each.mask == place).sum()) for each in slices)
            lost = sum(int((each.mask == place).sum()) for each in slices if each.slice == 1)
            if total:
                values.append(2 * (total - lost) / (2 * total - lost))
        assert scored.per_class[name]["dice"](np.ones(3)) == pytest.approx(np.mean(values))
    assert any("volume" in note for note in scored.notes)


def test_perfect_boxes_have_an_average_precision_of_one(corpus: str) -> None:
    examples = examples_of(corpus)
    right = {each.id: [{**box, "score": 0.5} for box in each.boxes] for each in examples}
    scored = score_detection(examples, right, CLASSES)
    assert scored.statistics["ap50"](np.ones(len(examples))) == pytest.approx(1)
    assert scored.statistics["ap"](np.ones(len(examples))) == pytest.approx(1)
    fewer = score_detection(examples, right, ("disc",))
    assert any("classes that the run does not know" in note for note in fewer.notes)


def test_probabilities_are_scored_by_patient_and_at_the_threshold_of_validation() -> None:
    def table(labels: list[str], chances: list[float], groups: list[str]) -> pa.Table:
        rows = [
            {"id": str(n), "split": "x", "group": group, "label": label, "probabilities": [1 - p, p]}
            for n, (label, p, group) in enumerate(zip(labels, chances, groups, strict=True))
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMAS["labels"])

    test = table(["well", "well", "ill", "ill"], [0.6, 0.2, 0.4, 0.9], ["a", "a", "b", "b"])
    validation = table(["well"] * 4 + ["ill"], [0.1, 0.2, 0.3, 0.5, 0.9], list("abcde"))
    settings = replace(QUICK, specificity=0.75)
    scored = score_classification(test, validation, ("well", "ill"), {}, settings=settings)
    ones = np.ones((1, 4))
    assert scored.statistics["balanced_accuracy"](ones)[0] == 0.5
    assert scored.statistics["balanced_accuracy_by_patient"](ones)[0] == 1  # means 0.4 and 0.65
    point, sensitivity, specificity = scored.operating_points[1]
    assert (point.name, point.threshold) == ("ill", 0.3)
    assert (sensitivity(ones)[0], specificity(ones)[0]) == (1, 0.5)


def test_an_interval_of_a_subgroup_sees_only_its_own_groups(corpus: str) -> None:
    examples = examples_of(corpus)
    half = {e.id: encode_mask(e.mask * (e.attributes["site"] == "north"), e.size) for e in examples}
    rows = score_subgroups(score_segmentation(examples, half, MASKS, settings=QUICK), QUICK)
    site = [row for row in rows if row.attribute == "site"]
    assert [(row.value, row.score.estimate, row.score.low, row.score.high) for row in site] == [
        ("south", 0, 0, 0),
        ("north", 1, 1, 1),
    ]


def test_evaluations_of_two_methods_are_compared_in_pairs(runs: dict[str, str], corpus: str, tmp_path: Path) -> None:
    first = [f"{tmp_path}/{n}" for n in range(2)]
    for uri in first:
        evaluate_annotated(runs["segmentation"], corpus=corpus, task="segmentation", out=uri, settings=QUICK)
    same = compare_annotated(first, first, replicates=50)
    assert (same.estimate, same.low, same.high, same.groups) == (0, 0, 0, 12)
    with pytest.raises(UserError, match="no metric 'ap'"):
        compare_annotated(first, first, metric="ap")


def test_what_does_not_fit_is_refused_with_the_way_out(runs: dict[str, str], corpus: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on boxes, not on masks"):
        evaluate_annotated(runs["detection"], corpus=corpus, task="segmentation")
    with pytest.raises(UserError, match="no task 'panoptic'"):
        evaluate_annotated(runs["detection"], corpus=corpus, task="panoptic")
    other = write_annotated(tmp_path / "other", {"test": 4})
    text = Path(other, "manifest.json").read_text()
    Path(other, "manifest.json").write_text(text.replace('"background"', '"outside"'))
    with pytest.raises(CorpusError, match="its masks are of"):
        evaluate_annotated(runs["segmentation"], corpus=other, task="segmentation")


def test_the_command_prints_the_tables(runs: dict[str, str], corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    from medalign.cli.app import main

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", runs["classification"], "--corpus", corpus, "--task", "classification"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "balanced_accuracy" in printed
    assert "site: south" in printed
    assert "24 images of 12 groups" in printed
    recipe = yaml.safe_load(Path(runs["classification"], "recipe.yaml").read_text())
    assert recipe["objective"]["classes"] == list(CLASSES)


def test_the_page_of_a_run_shows_predictions_over_images_and_the_tables(runs: dict[str, str], corpus: str) -> None:
    for task, run in (
        ("segmentation", "segmentation"),
        ("detection", "detection"),
        ("classification", "classification"),
    ):
        evaluate_annotated(runs[run], corpus=corpus, task=task, settings=QUICK)
        page = Path(report(runs[run])).read_text()
        assert f"{task.capitalize()}: shapes-{task}" in page
        assert "site: south" in page
        assert "<script" not in page
        if task != "classification":  # which may have made no mistake
            assert page.count('alt="with what was predicted"') == 6
            assert page.count("data:image/jpeg;base64,") >= 12
        else:
            assert "Calibration" in page


def test_a_page_says_why_it_has_no_pictures(runs: dict[str, str], corpus: str, tmp_path: Path) -> None:
    moved = shutil.copytree(corpus, tmp_path / "shapes")
    found = evaluate_annotated(runs["segmentation"], corpus=str(moved), task="segmentation", settings=QUICK)
    shutil.rmtree(moved)
    page = Path(report(runs["segmentation"])).read_text()
    assert "No pictures" in page
    assert f"{found.metrics['dice'].estimate:.3f}" in page
