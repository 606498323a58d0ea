"""Probing real encoders on a real corpus: what is fitted, what is left out, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from striped_corpus import write_corpus
from trained_run import write_run

from medalign.build import build_encoder, model_settings
from medalign.data.decode import decode_image
from medalign.data.reader import read_rows
from medalign.errors import CorpusError, RunError, UserError
from medalign.evaluation.extract import extract, fingerprint
from medalign.evaluation.pool import pool
from medalign.evaluation.probe import ProbeSettings
from medalign.evaluation.result import from_parquet, loads
from medalign.evaluation.source import read_recipe
from medalign.evaluation.task import evaluate, probe_corpus, store, summarise
from medalign_core.metrics.classification import classification_scores
from medalign_core.models.encoders import ImageEncoder
from medalign_core.models.settings import ResNet

SPLITS = {"train": 60, "val": 24, "test": 40}
SETTINGS = ProbeSettings(replicates=200)


def encoder(seed: int) -> ImageEncoder:
    torch.manual_seed(seed)
    return ResNet(embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1), layer_type="basic").build()


def test_every_source_is_probed_on_the_same_samples_and_none_changes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", SPLITS)
    encoders = {("pretrained", 0): encoder(0), ("random", 3): encoder(3)}
    before = {source: fingerprint(model) for source, model in encoders.items()}
    probed = probe_corpus(encoders, corpus, size=32, settings=SETTINGS)
    assert {source: fingerprint(model) for source, model in encoders.items()} == before
    assert [(p.method, p.head, p.seed) for p in probed.predictions] == [
        (method, head, seed)
        for method, seed in (("pretrained", 0), ("random", 3), ("pixels", 0))
        for head in ("logistic", "knn")
    ]
    assert probed.samples.ids.tolist() == [f"test-{i}" for i in range(40)]
    assert probed.known["rows"] == SPLITS
    assert probed.known["groups"] == {"train": 30, "val": 12, "test": 20}
    assert probed.known["selection"] == "balanced accuracy on the val split"
    for entry in probed.predictions[:2]:  # even an untrained convolution tells across from down
        assert classification_scores(probed.samples.labels, entry.probabilities)["accuracy"] > 0.9


def test_features_are_those_of_the_deterministic_test_transform(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", SPLITS)
    once, twice = (probe_corpus({("pretrained", 0): encoder(0)}, corpus, size=32) for _ in range(2))
    np.testing.assert_array_equal(once.predictions[0].probabilities, twice.predictions[0].probabilities)
    rows = [row for batch in read_rows(corpus, "test") for row in batch.to_pylist()]
    images = np.stack([decode_image(row["image"], 32) for row in rows])
    assert extract(encoder(0), [images]).shape == (40, 16)
    assert [row["id"] for row in rows] == once.samples.ids.tolist()


def test_without_a_validation_split_folds_of_whole_groups_choose(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 60, "test": 40})
    probed = probe_corpus({("pretrained", 0): encoder(0)}, corpus, size=32, settings=SETTINGS)
    assert probed.known["selection"].endswith("cross-validation folds of the train split, groups kept whole")


def test_rows_without_a_label_or_a_readable_image_are_left_out_and_counted(tmp_path: Path) -> None:
    def change(split: str, i: int, row: dict) -> None:
        if split == "test" and i in (3, 4):
            row["image"] = row["image"][: 40 + i * 10]
        if split == "train" and i == 7:
            row["label"] = None

    corpus = write_corpus(tmp_path / "stripes", SPLITS, change)
    probed = probe_corpus({("pretrained", 0): encoder(0)}, corpus, size=32, settings=SETTINGS)
    assert probed.known["rows"] == {"train": 59, "val": 24, "test": 38}
    assert "test-3" not in probed.samples.ids
    assert probed.known["notes"] == (
        "1 images of the train split have no label and were left out.",
        "2 images of the test split could not be decoded and were left out.",
    )


def test_a_corpus_without_a_test_split_says_what_to_do(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 8, "val": 8})
    with pytest.raises(CorpusError, match=r"no 'test' split to probe with \(it has: train, val\); prepare it again"):
        probe_corpus({}, corpus, size=32)


def test_a_corpus_without_labels_or_with_one_class_is_refused(tmp_path: Path) -> None:
    def unlabelled(split: str, i: int, row: dict) -> None:
        row["label"] = None

    def one_class(split: str, i: int, row: dict) -> None:
        row["label"] = "down"

    for change, message in ((unlabelled, "has a label"), (one_class, r"one class \(down\)")):
        corpus = write_corpus(tmp_path / change.__name__, {"train": 8, "test": 8}, change)
        with pytest.raises(CorpusError, match=message):
            probe_corpus({}, corpus, size=32)


def test_a_split_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    def broken(split: str, i: int, row: dict) -> None:
        row["image"] = b"no image" if split == "test" else row["image"]

    corpus = write_corpus(tmp_path / "stripes", {"train": 8, "test": 8}, broken)
    with pytest.raises(CorpusError, match="no labelled image of the 'test' split can be read"):
        probe_corpus({}, corpus, size=32)


def test_an_unknown_task_and_a_missing_run_are_refused(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", {"train": 8, "test": 8})
    with pytest.raises(UserError, match="no task 'segment'"):
        evaluate(str(tmp_path / "run"), corpus=corpus, task="segment")
    with pytest.raises(RunError, match="no run here"):
        evaluate(str(tmp_path / "run"), corpus=corpus)


def evaluated(run: Path, corpus: str, seed: int) -> None:
    encoders = {("pretrained", seed): encoder(seed + 10), ("random", seed): encoder(seed)}
    probed = probe_corpus(encoders, corpus, size=32, settings=SETTINGS)
    known = {"run": str(run), "task": "probe", "checkpoint": "best", "uri": str(run / "evaluations/stripes-probe")}
    result = summarise(probed.predictions, probed.samples, settings=SETTINGS, known={**probed.known, **known})
    store(result, probed.predictions, probed.samples)
    assert loads((run / "evaluations/stripes-probe/scores.json").read_bytes(), where="") == result


def test_runs_of_several_seeds_are_pooled_and_paired(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", SPLITS)
    runs = [tmp_path / f"run-{seed}" for seed in range(3)]
    for seed, run in enumerate(runs):
        evaluated(run, corpus, seed)
    out = tmp_path / "run-0/evaluations/stripes-probe-pooled"
    result = pool([str(run) for run in runs], evaluation="stripes-probe", out=str(out), settings=SETTINGS)
    assert result.primary is not None
    assert len(result.primary.difference.per_seed) == 3
    assert [s.seed for s in result.scores if (s.method, s.head) == ("pixels", "knn")] == [0]
    stored, samples, _ = from_parquet((out / "predictions.parquet").read_bytes())
    assert len(stored) == 2 * (3 + 3 + 1)
    by = {(p.method, p.seed): p for p in stored if p.head == "logistic"}
    for seed, difference in enumerate(result.primary.difference.per_seed):
        ours, theirs = (
            classification_scores(samples.labels, by[method, seed].probabilities)["balanced_accuracy"]
            for method in ("pretrained", "random")
        )
        assert difference == pytest.approx(float(ours - theirs))


def test_runs_that_cannot_be_pooled_are_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", SPLITS)
    other = write_corpus(tmp_path / "other/stripes", {"train": 60, "test": 20})
    runs = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    evaluated(runs[0], corpus, 0)
    evaluated(runs[1], corpus, 0)
    evaluated(runs[2], other, 1)
    for others, message in (
        ([runs[1]], "its seed, 0"),
        ([runs[2]], "other test images"),
        ([tmp_path], "no evaluation"),
    ):
        with pytest.raises(RunError, match=message):
            pool([str(run) for run in (runs[0], *others)], evaluation="stripes-probe", out=str(tmp_path / "out"))


def test_a_run_is_evaluated_and_stored_beside_its_untrained_self(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", SPLITS)
    trained = write_run(tmp_path / "run", seed=4)
    result = evaluate(str(tmp_path / "run"), corpus=corpus, settings=SETTINGS)
    assert result.uri == str(tmp_path / "run/evaluations/stripes-probe")
    assert loads((tmp_path / "run/evaluations/stripes-probe/scores.json").read_bytes(), where="") == result
    assert [(s.method, s.head, s.seed) for s in result.scores[:3]] == [
        ("pretrained", "logistic", 4),
        ("pretrained", "knn", 4),
        ("random", "logistic", 4),
    ]
    untrained = build_encoder(model_settings(read_recipe(str(tmp_path / "run"))), seed=4)
    encoders = {("pretrained", 4): trained, ("random", 4): untrained}
    same = probe_corpus(encoders, corpus, size=32, settings=SETTINGS)
    stored, _, _ = from_parquet((tmp_path / "run/evaluations/stripes-probe/predictions.parquet").read_bytes())
    for ours, theirs in zip(same.predictions, stored, strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-9)


def test_several_untrained_seeds_and_a_brand_for_held_out_training(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "stripes", SPLITS)
    write_run(tmp_path / "run", seed=4, allow_splits=("test",))
    result = evaluate(str(tmp_path / "run"), corpus=corpus, seeds=[0, 1, 2], settings=SETTINGS)
    assert [s.seed for s in result.scores if (s.method, s.head) == ("random", "knn")] == [0, 1, 2]
    assert result.primary is not None
    assert len(result.primary.difference.per_seed) == 3
    assert "allowed to train on the split `test`" in result.notes[0]
    assert "One pretraining run" in result.notes[1]
