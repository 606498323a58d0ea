"""The commands of the program from end to end: what they print, what they leave, and with which code they exit."""

import json
import re
from pathlib import Path

import pytest
from drawn_images import write_folder
from striped_corpus import write_corpus

from medalign.cli import main, printing
from medalign.recipe import shipped

SMALL = [
    *("train.workers=0", "train.micro_batch=16", "train.global_batch=16", "train.steps=2", "train.validate_every=2"),
    *("data.image_size=32", "model.hidden_sizes=[8, 16]", "model.depths=[1, 1]", "model.embedding_size=8"),
    *("tracking.tensorboard=false", "tracking.log_every=1"),
]


def call(*words):
    """Run the program and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of stripes."""
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"val": 32, "test": 32, "train": 64})


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run that the program has trained, and what it was asked."""
    uri = str(tmp_path_factory.mktemp("runs") / "small")
    words = ["train", "lvm_med/tiny_cpu", f"data.corpus={corpus}", f"run.uri={uri}", *SMALL]
    assert call(*words) == 0
    return uri, words


def test_training_ends_with_steps_and_uri_and_starts_again_where_it_ended(run, capsys):
    uri, words = run
    assert call(*words) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"2 of 2 steps done: {uri}"
    assert out.splitlines()[-2].startswith("best matching_accuracy: 0.")
    assert not err


def test_a_dry_run_prints_recipe_and_plan_and_writes_nothing(corpus, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        call(
            "train",
            "lvm_med/tiny_cpu",
            f"data.corpus={corpus}",
            *SMALL,
            "train.epochs=3",
            "train.steps=null",
            "--dry-run",
        )
        == 0
    )
    out, _ = capsys.readouterr()
    plan = dict(re.split(r"\s{2,}", line) for line in out.split("\n\n")[-2].splitlines())
    assert plan["rows"] == "64"
    assert plan["global batch"] == "16"
    assert plan["micro batch"] == "16"
    assert plan["steps per epoch"] == "4"
    assert plan["total steps"] == "12"
    assert plan["graphs per step"] == "1"
    assert "hidden_sizes: [8, 16]" in out
    assert not list(tmp_path.iterdir())


def test_what_an_override_removed_is_said_on_stderr(corpus, capsys, tmp_path):
    words = [f"data.corpus={corpus}", f"run.uri={tmp_path}/none", *SMALL, "objective.type=info_nce", "--dry-run"]
    assert call("train", "lvm_med/tiny_cpu", *words) == 0
    _, err = capsys.readouterr()
    assert err.startswith("note: override objective.type=info_nce: another type, so the recipe's objective.preset")
    assert err.count("\n") == 1


def test_a_run_that_stopped_early_exits_with_1_and_says_how_to_go_on(run, capsys, monkeypatch):
    from medalign import launch

    uri, words = run
    stopped = launch.TrainResult(uri=uri, step=1, total_steps=2, skipped=3, best=None)
    monkeypatch.setattr(launch, "train", lambda recipe, overrides, allow_change: stopped)
    assert call(*words) == 1
    out, _ = capsys.readouterr()
    assert out.splitlines() == [
        "3 steps skipped: their loss or gradient was not finite",
        f"1 of 2 steps done (the same command goes on from there): {uri}",
    ]


def test_a_lower_is_better_figure_is_shown_as_it_was(capsys):
    from medalign.launch import TrainResult

    printing.show_end(TrainResult(uri="x", step=1, total_steps=1, skipped=0, best=-0.25), best="-loss")
    assert capsys.readouterr().out.splitlines()[0] == "best loss: 0.25"


def test_evaluate_report_and_export_print_where_they_left_what(run, corpus, capsys, tmp_path):
    uri, _ = run
    assert call("evaluate", uri, "--corpus", corpus, "--seeds", "0,1") == 0
    out, _ = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["head", "encoder", "seed", "accuracy", "balanced", "macro-F1", "AUROC"]
    scored = [line.split()[:3] for line in lines if re.match(r"(logistic|knn) ", line)]
    assert sorted(scored) == sorted(
        [head, *encoder]
        for head in ("logistic", "knn")
        for encoder in (("pretrained", "0"), ("random", "0"), ("random", "1"), ("pixels", "0"))
    )
    table = next(number for number, line in enumerate(lines) if line.split()[:2] == ["balanced", "head"])
    assert lines[table + 1].startswith("pretrained - random")
    assert lines[table + 2].startswith("(primary)")
    assert lines[-1] == f"{uri}/evaluations/stripes-probe"
    assert max(len(line) for line in lines[: table + 8]) <= 80
    assert call("report", uri) == 0
    assert capsys.readouterr().out == f"{uri}/report.html\n"
    assert Path(uri, "report.html").read_text().startswith("<!doctype html>")
    assert call("export", uri, "--to", tmp_path / "plain", "--checkpoint", "latest") == 0
    assert capsys.readouterr().out == f"{tmp_path}/plain\n"
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["hidden_sizes"] == [8, 16]


def test_features_and_corpora_are_written_through_ray(ray_local, run, corpus, capsys, tmp_path):
    uri, _ = run
    assert call("embed", uri, "--corpus", corpus, "--out", tmp_path / "features", "--splits", "val") == 0
    out, _ = capsys.readouterr()
    assert re.search(r"^val +32 +\d+$", out, re.MULTILINE)
    assert out.splitlines()[-1] == f"16 features of each image at 32 px: {tmp_path}/features"
    write_folder(tmp_path / "pictures")
    words = [
        "--format",
        "image-folder",
        "--out",
        tmp_path / "corpus",
        "--fractions",
        "val=0.2,test=0.2",
        "--max-side",
        32,
    ]
    assert call("data", "prepare", tmp_path / "pictures", *words, "--option", "group_pattern=_(p[0-9]+)_") == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[0].split() == ["split", "rows", "groups", "shards", "size"]
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["train", "val", "test"]


def test_a_corpus_is_shown_with_a_contact_sheet_and_nothing_folds(corpus, capsys, tmp_path):
    assert call("data", "show", corpus, "--contact-sheet", tmp_path / "sheet.png") == 0
    out, _ = capsys.readouterr()
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert "boxes      list<item: struct<label: string, left: float, top: float, right: float, bottom: float>>" in out
    assert re.search(r"^across +32 +16 +16$", out, re.MULTILINE)
    assert out.splitlines()[-1] == f"128 rows, 2 classes: {corpus}"


def test_validation_exits_with_1_where_something_is_wrong(tmp_path, capsys):
    good = write_corpus(tmp_path / "good", {"train": 32})
    shard = next(Path(good).rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"X")
    assert call("data", "validate", good) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("- ")
    assert "problems: " in lines[-1]


def test_the_version_and_the_recipes_are_listed(capsys):
    assert call("--version") == 0
    assert re.fullmatch(r"medalign \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert call("recipes") == 0
    assert capsys.readouterr().out.split() == shipped()


def test_help_names_every_command(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    for name in ("train", "evaluate", "report", "export", "embed", "recipes", "data"):
        assert re.search(rf"^  {name} ", out, re.MULTILINE), name
    assert max(map(len, out.splitlines())) <= 80
