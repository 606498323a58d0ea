"""What a user can get wrong at the command line: exit code 2, one line on stderr with the way out, no traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml
from striped_corpus import write_corpus

from medalign.cli import main

MEDALIGN = [sys.executable, "-m", "medalign.cli"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus with all three splits."""
    return write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 128, "val": 32, "test": 32})


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Run the program in an empty folder; return the one line with which it refused."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert ended.value.code == 2, err
        assert not out
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err.removeprefix("error: ").rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian.steps=3"], 'override trian.steps=3: trian = {"steps": 3}: unknown key; did you mean train?'),
        (["train.step=3"], "override train.step=3: unknown key; did you mean train.steps?"),
        (["train.steps=many"], "must be an integer"),
        (["train.steps=1e3"], "write 1000"),
        (["train.workers=true"], "must be an integer"),
        (["train.global_batch=100"], "global_batch must be a multiple of micro_batch = 64, got 100."),
        (
            ["train.micro_batch=40", "train.global_batch=80"],
            "override train.micro_batch=40: micro_batch must be a multiple of graph_size = 16, got 40.",
        ),
        (["train.workers=3"], "workers must not exceed global_batch / micro_batch = 2, got 3"),
        (["objective.type=lvmmed"], "unknown type; did you mean lvm_med?"),
        (["objective.type=nowhere.to_be:Found"], "nowhere.to_be cannot be imported"),
        (["train.steps"], 'no "="; write key.path=VALUE.'),
    ],
)
def test_a_wrong_key_type_or_value_is_refused(words, expected, refused):
    assert expected in refused("train", "lvm_med/tiny_cpu", "data.corpus=corpora/any", *words)


def test_an_error_in_a_file_has_its_line(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("run:\n  uri: runs/mine\ndata:\n  corpus: corpora/any\n  image_sise: 64\n")
    line = refused("train", "mine.yaml")
    assert line == "mine.yaml:5: data.image_sise = 64: unknown key; did you mean data.image_size?"


def test_a_recipe_without_its_corpus_names_the_missing_key(refused):
    assert "data.corpus: missing; write it in the recipe or give the override" in refused("train", "lvm_med/tiny_cpu")


def test_an_unknown_recipe_lists_the_shipped_ones(refused):
    assert "no such recipe" in refused("train", "lvm_med/tiny")
    assert "lvm_med/tiny_cpu" in refused("train", "lvm_med/tiny")


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_missing_corpus_is_refused_before_a_run_is_claimed(dry, refused, tmp_path):
    line = refused("train", "lvm_med/tiny_cpu", "data.corpus=corpora/none", *dry)
    assert "corpora/none: no corpus here (manifest.json is missing)" in line
    assert not (tmp_path / "runs").exists()


def test_a_corpus_of_another_schema_is_refused(refused, tmp_path, corpus):
    manifest = json.loads(open(f"{corpus}/manifest.json").read())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text(json.dumps({**manifest, "schema": "medalign.corpus/0"}))
    for words in (
        ["train", "lvm_med/tiny_cpu", "data.corpus=old"],
        ["data", "show", "old"],
        ["data", "validate", "old"],
    ):
        line = refused(*words)
        assert "schema 'medalign.corpus/0', this release reads 'medalign.corpus/1', 'medalign.corpus/2'," in line
        assert line.endswith("'medalign.corpus/4'; prepare the corpus again.")


def test_a_corpus_without_images_of_the_split_is_refused(refused, tmp_path):
    alone = write_corpus(tmp_path / "alone", {"test": 32})
    line = refused("train", "lvm_med/tiny_cpu", f"data.corpus={alone}")
    assert line == "corpus 'alone' has no images of split 'train'; it has: test."
    unchecked = write_corpus(tmp_path / "unchecked", {"train": 128})
    assert "has no images of split 'val'" in refused("train", "lvm_med/tiny_cpu", f"data.corpus={unchecked}")


def test_a_split_too_small_for_a_step_is_refused(refused, tmp_path):
    small = write_corpus(tmp_path / "small", {"train": 100, "val": 32})
    line = refused("train", "lvm_med/tiny_cpu", f"data.corpus={small}")
    assert "100" in line
    assert "128" in line


def test_a_run_is_not_taken_over_by_another_recipe(refused, tmp_path, corpus):
    (tmp_path / "runs" / "tiny_cpu").mkdir(parents=True)
    recipe = {"run": {"uri": "x", "seed": 0}, "data": {}, "train": {"steps": 7}}
    (tmp_path / "runs" / "tiny_cpu" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    line = refused("train", "lvm_med/tiny_cpu", f"data.corpus={corpus}")
    assert "this run was started with" in line
    assert "choose another run.uri" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data", "prepare", "nowhere", "--format", "image-folder", "--out", "c"], "nowhere"),
        (
            ["data", "prepare", ".", "--format", "images", "--out", "c"],
            "unknown format 'images'; the formats are: image-",
        ),
        (["data", "prepare", ".", "--format", "image-folder", "--out", "c"], "no images for format image-folder"),
        (["data", "prepare", ".", "--format", "image-folder", "--out", "c", "--crops"], "has no option 'crops'"),
        (
            ["data", "prepare", ".", "--format", "voc", "--out", "c", "--option", "window"],
            "--option window: write KEY=",
        ),
        (
            ["data", "prepare", ".", "--format", "voc", "--out", "c", "--fractions", "val=a"],
            "--fractions val=a: not a n",
        ),
        (["data", "prepare", ".", "--format", "voc", "--out", "ftp://host/c"], "the scheme ftp:// is not supported"),
        (["data", "prepare", "."], "Missing option '--format'"),
        (["data", "show", "nowhere"], "nowhere: no corpus here"),
        (["evaluate", "nowhere", "--corpus", "nowhere"], "nowhere: no corpus here"),
        (["evaluate", "nowhere", "--corpus", "nowhere", "--seeds", "a"], "--seeds a: not whole numbers; write e.g."),
        (
            ["evaluate", "nowhere", "--corpus", "nowhere", "--task", "quiz"],
            "no task 'quiz'; there is: probe, vqa, classification",
        ),
        (["report", "nowhere"], "nowhere: no run here"),
        (["export", "nowhere", "--to", "there"], "nowhere"),
        (["embed", "nowhere", "--corpus", "nowhere", "--out", "there"], "nowhere: no corpus here"),
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "--dry"], "No such option"),
    ],
)
def test_a_wrong_word_is_refused(words, expected, refused, tmp_path):
    assert expected in refused(*words)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_needs_a_run_and_a_test_split(refused, tmp_path, corpus):
    assert "nowhere: no run here" in refused("evaluate", "nowhere", "--corpus", corpus)
    untested = write_corpus(tmp_path / "untested", {"train": 32})
    assert "test" in refused("evaluate", "nowhere", "--corpus", untested)


def test_a_bucket_that_is_not_there_or_not_reachable_is_refused_within_a_minute(refused, monkeypatch):
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    try:
        line = refused("train", "lvm_med/tiny_cpu", "data.corpus=s3://no-such-bucket/corpus")
    finally:
        server.stop()
    assert line.startswith("s3://no-such-bucket/corpus")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        began = time.monotonic()
        line = refused("train", "lvm_med/tiny_cpu", "data.corpus=s3://bucket/corpus")
    assert time.monotonic() - began < 60
    assert "s3://bucket/corpus" in line
    assert "check the address and the credentials" in line


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["train", "lvm_med/tiny_cpu", "data.corpus=c", "train.stepz=3"], 2), (["train", "x.yaml"], 2)],
)
def test_help_and_a_bad_key_take_less_than_a_second_of_cpu_time(words, code, tmp_path):
    # the first run of a fresh installation also compiles bytecode; the quicker of two is the command's own
    ends = [_cpu_seconds([*MEDALIGN, *words], tmp_path) for _ in range(2)]
    assert [found for found, _ in ends] == [code, code]
    assert min(seconds for _, seconds in ends) < 1.0


def test_the_program_starts_without_frameworks():
    code = (
        "import sys, medalign.cli; print([n for n in ('torch', 'ray', 'transformers', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_what_nobody_foresaw_keeps_its_traceback(tmp_path):
    (tmp_path / "mine.py").write_text("raise RuntimeError('a bug of mine')\n")
    words = ["train", "lvm_med/tiny_cpu", "data.corpus=c", "objective.type=mine:Objective"]
    done = subprocess.run([*MEDALIGN, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().endswith("RuntimeError: a bug of mine")


def test_a_reader_who_goes_away_is_no_error(tmp_path):
    command = f"{' '.join(MEDALIGN)} recipes | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_an_interrupted_run_exits_with_130_and_says_so(tmp_path, corpus):
    words = ["train", "lvm_med/tiny_cpu", f"data.corpus={corpus}", "train.workers=0", "train.micro_batch=16"]
    words += ["train.global_batch=16", "train.steps=100000", "data.image_size=32", "tracking.log_every=1"]
    process = subprocess.Popen(
        [*MEDALIGN, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("step 1/100000: loss ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "stopped by SIGINT after step " in err
    assert "which is saved; the same command goes on." in err


def _cpu_seconds(command, folder):
    """Return (exit code, CPU seconds) of one command, without those of other children that end meanwhile."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime
