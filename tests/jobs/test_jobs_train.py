"""A job, submitted as the README says, to a cluster of this machine with its own token, ports and temporary folder."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "medalign"))
from striped_corpus import write_corpus  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BIN = Path(sys.executable).parent
SMALL = [
    *("train.workers=2", "train.micro_batch=16", "train.global_batch=32", "train.steps=2", "train.validate_every=0"),
    *("data.image_size=32", "model.hidden_sizes=[8, 16]", "model.depths=[1, 1]", "model.embedding_size=8"),
]


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """The environment in which `ray job submit` reaches a cluster that lives for this module only."""
    folder, dashboard = tempfile.mkdtemp(prefix="ray-jobs-", dir="/tmp"), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment |= {
        "PATH": f"{BIN}:{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-this-test-only-0123456789",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "OMP_NUM_THREADS": "1",
    }
    start = [
        BIN / "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=4",
        f"--port={free_port()}",
        "--disable-usage-stats",
    ]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=300000000"]
    # without a port of its own the agent of a second cluster on a machine stays deaf, and no job can be submitted
    start += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    log = open(Path(folder, "start.log"), "w")
    head = subprocess.Popen([*start, f"--temp-dir={folder}"], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", dashboard)):
            assert head.poll() is None, Path(folder, "start.log").read_text()
            assert time.monotonic() < deadline, Path(folder, "start.log").read_text()
            time.sleep(0.5)
        yield {**environment, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=30)
        head.wait(timeout=30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster, *entrypoint):
    """Submit from the checkout and wait for the end; return what `ray job submit` did."""
    command = [BIN / "ray", "job", "submit", "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--"]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [*command, *entrypoint],
            cwd=ROOT,
            env=cluster,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        # a cluster that has just started says so until its agent is up
        is_early = any(text in done.stdout for text in ("No available agent", "Failed to connect to Ray"))
        if not is_early or time.monotonic() > deadline:
            return done
        time.sleep(2)


def test_a_submitted_job_trains_with_the_code_it_was_submitted_with(cluster, tmp_path):
    corpus = write_corpus(tmp_path / "stripes", {"train": 64})
    done = submit(cluster, "python", "-c", "import medalign; print('it is', medalign.__file__)")
    assert re.search(r"^it is .*/working_dir_files/.*/platform/medalign/__init__.py$", done.stdout, re.MULTILINE)
    run = str(tmp_path / "run")
    words = [f"data.corpus={corpus}", f"run.uri={run}", *SMALL]
    done = submit(cluster, "python", "jobs/train.py", "lvm_med/tiny_cpu", *words)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"2 of 2 steps done: {run}" in done.stdout
    assert list(Path(run, "checkpoints").iterdir())


def test_a_job_that_is_asked_for_nonsense_fails_with_one_line(cluster):
    done = submit(cluster, "python", "jobs/train.py", "lvm_med/tiny_cpu", "data.corpus=c", "train.step=3")
    assert done.returncode == 1
    assert "error: override train.step=3: unknown key; did you mean train.steps?" in done.stdout
    assert "Traceback" not in done.stdout
