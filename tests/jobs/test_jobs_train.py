"""Every job, submitted as its docstring says from a clean checkout, to a cluster of this machine."""

import contextlib
import re
import subprocess
import time
from pathlib import Path

import pytest
from chat_endpoint import ChatEndpoint
from drawn_images import write_folder
from job_cluster import BIN, ROOT
from striped_corpus import write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
SMALL = [
    *("train.workers=2", "train.micro_batch=16", "train.global_batch=32", "train.steps=2", "train.validate_every=0"),
    *("data.image_size=32", "model.hidden_sizes=[8, 16]", "model.depths=[1, 1]", "model.embedding_size=8"),
]


def submit(cluster, checkout, *entrypoint, timeout=400):
    """Submit from a checkout and wait for the end; return what `ray job submit` did."""
    command = [BIN / "ray", "job", "submit", "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--"]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [*command, *entrypoint],
            cwd=checkout,
            env=cluster,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        # a cluster that has just started says so until its agent is up
        is_early = any(text in done.stdout for text in ("No available agent", "Failed to connect to Ray"))
        if not is_early or time.monotonic() > deadline:
            return done
        time.sleep(2)


def told(done):
    """Return the lines that the job itself printed last, once it has ended well."""
    assert done.returncode == 0, done.stdout[-3000:]
    return [line for line in done.stdout.splitlines() if line and not re.search(r"succeeded|-{10}|\tINFO ", line)]


def test_a_submitted_job_trains_with_the_code_it_was_submitted_with(cluster, checkout, tmp_path):
    corpus = write_corpus(tmp_path / "stripes", {"train": 64})
    done = submit(cluster, checkout, "python", "-c", "import medalign; print('it is', medalign.__file__)")
    assert re.search(r"^it is .*/working_dir_files/.*/platform/medalign/__init__.py$", done.stdout, re.MULTILINE)
    run = str(tmp_path / "run")
    words = [f"data.corpus={corpus}", f"run.uri={run}", *SMALL]
    lines = told(submit(cluster, checkout, "python", "jobs/train.py", "lvm_med/tiny_cpu", *words))
    assert f"2 of 2 steps done: {run}" in lines
    assert list(Path(run, "checkpoints").iterdir())
    again = submit(cluster, checkout, "python", "jobs/train.py", "lvm_med/tiny_cpu", *words)
    assert f"2 of 2 steps done: {run}" in told(again)  # the same run: it was done already
    assert "step 1/2" not in again.stdout


def test_a_job_that_is_asked_for_nonsense_fails_with_one_line(cluster, checkout):
    done = submit(cluster, checkout, "python", "jobs/train.py", "lvm_med/tiny_cpu", "data.corpus=c", "train.step=3")
    assert done.returncode == 1
    assert "error: override train.step=3: unknown key; did you mean train.steps?" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_other_jobs_do_their_work(cluster, checkout, tmp_path):
    images = write_folder(tmp_path / "images", per_class=40, patients=20)
    corpus, run, bank = (str(tmp_path / name) for name in ("corpus", "run", "bank.json"))
    words = ["--format", "image-folder", "--out", corpus, "--fractions", "val=0.2,test=0.2"]
    assert corpus in " ".join(told(submit(cluster, checkout, "python", "jobs/prepare.py", str(images), *words))[-3:])
    words = [f"data.corpus={corpus}", f"run.uri={run}", *SMALL]
    told(submit(cluster, checkout, "python", "jobs/train.py", "lvm_med/tiny_cpu", *words))
    words = ["--corpus", corpus, "--task", "probe", "--seeds", "0"]
    assert run in " ".join(told(submit(cluster, checkout, "python", "jobs/evaluate.py", run, *words))[-3:])
    assert f"{run}/report.html" in told(submit(cluster, checkout, "python", "jobs/report.py", run))
    with contextlib.closing(ChatEndpoint()) as endpoint:
        words = ["--out", bank, "--endpoint", endpoint.url, "--model", "m"]
        assert bank in told(submit(cluster, checkout, "python", "jobs/generate_bank.py", corpus, *words))[-1]


def test_every_job_starts_from_a_clean_checkout(cluster, checkout):
    done = submit(
        cluster,
        checkout,
        "bash",
        "-c",
        "for job in jobs/*.py; do case $job in *demo*) ;; *) python $job --help || exit 3;; esac; done",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("Usage: medalign") == len([name for name in JOBS if name != "demo.py"])
