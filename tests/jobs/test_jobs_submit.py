"""`medalign submit`: what comes back of a job, and what a second submission finds."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from chaos_rig import RECIPE
from job_cluster import BIN, ROOT, family
from striped_corpus import write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = [
    *("train.workers=2", "train.micro_batch=16", "train.global_batch=32", "train.steps=2", "train.validate_every=0"),
    *("data.image_size=32", "model.hidden_sizes=[8, 16]", "model.depths=[1, 1]", "model.embedding_size=8"),
]


def start(cluster, folder, *words):
    """Start `medalign submit` in a folder that is no checkout."""
    return subprocess.Popen(
        [BIN / "medalign", "submit", *map(str, words)],
        cwd=folder,
        env=cluster,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(cluster, folder, *words, timeout=300):
    """Submit and wait; return (exit code, lines of stdout, stderr)."""
    process = start(cluster, folder, *words)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, [line for line in out.splitlines() if line.strip()], err


def jobs_of(cluster, run):
    """Return the jobs of a run, by id."""
    token = {"Authorization": f"Bearer {cluster['RAY_AUTH_TOKEN']}"}
    found = requests.get(f"{cluster['RAY_ADDRESS']}/api/jobs/", headers=token, timeout=20).json()
    return {job["submission_id"]: job for job in found if (job["metadata"] or {}).get("medalign_run") == run}


def test_a_cluster_of_these_tests_refuses_who_has_no_token(cluster):
    found = requests.post(f"{cluster['RAY_ADDRESS']}/api/jobs/", json={"entrypoint": "true"}, timeout=20)
    assert found.status_code in (401, 403)
    naked = {name: value for name, value in cluster.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": "/nonexistent"}
    code, _, err = submit(naked, "/tmp", "lvm_med/tiny_cpu", "data.corpus=/c", "run.uri=/r")
    assert code == 2, err
    assert "the cluster wants its token" in err


def test_a_submitted_run_brings_its_last_line_and_exit_code_home(cluster, tmp_path):
    corpus, run = write_corpus(tmp_path / "stripes", {"train": 64}), str(tmp_path / "run")
    words = ["lvm_med/tiny_cpu", f"data.corpus={corpus}", f"run.uri={run}", *SMALL]
    code, lines, err = submit(cluster, tmp_path, *words)
    assert code == 0, "\n".join([*lines[-20:], err])
    assert lines[-1] == f"2 of 2 steps done: {run}"
    assert any(line.startswith("step 2/2: loss") for line in lines)
    (job,) = jobs_of(cluster, run).values()
    assert job["driver_exit_code"] == 0
    assert job["runtime_env"].keys() >= {"working_dir", "py_modules"}
    environment = json.loads(Path(run, "environment.json").read_text())
    assert environment["packages"]["ray"]
    # what is wrong on the nodes alone comes back as it would here: one line, exit code 2
    code, lines, _ = submit(cluster, tmp_path, *words[:1], "data.corpus=/no/such/corpus", f"run.uri={run}-2")
    assert code == 2
    assert lines[-1].startswith("error: /no/such/corpus")


def test_a_killed_run_goes_on_by_the_same_words_and_a_second_submitter_only_watches(cluster, tmp_path):
    corpus, run = write_corpus(tmp_path / "stripes", {"train": 100}), tmp_path / "run"
    shutil.copy(ROOT / "tests" / "medalign" / "own_objectives.py", tmp_path)  # a user's own class travels, too
    log = tmp_path / "told"
    parts = {**RECIPE, "run": {"seed": 4, "uri": str(run)}, "data": {**RECIPE["data"], "corpus": corpus}}
    parts |= {"objective": {"type": "own_objectives:Telling", "projection_size": 8, "log": str(log)}}
    parts |= {"train": {**RECIPE["train"], "workers": 2, "steps": 200, "checkpoint_every": 5, "validate_every": 0}}
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.move(tmp_path / "own_objectives.py", folder)
    (folder / "mine.yaml").write_text(yaml.safe_dump(parts))
    words = ["mine.yaml", "--working-dir", "."]

    def step() -> int:
        lines = log.read_text().splitlines() if log.exists() else ["{}"]
        return max(json.loads(line).get("step", 0) for line in lines[-3:])

    first = start(cluster, folder, *words)
    wait_until(lambda: step() >= 8, first)
    second = start(cluster, folder, *words)
    wait_until(lambda: step() >= 30, first)
    drivers = [p for p in family(int(cluster["HEAD_PID"])) if is_driver(p)]
    for driver in drivers:
        driver.send_signal(signal.SIGKILL)
    outs = [process.communicate(timeout=120) for process in (first, second)]
    assert drivers
    assert [process.returncode for process in (first, second)] == [137, 137], outs
    assert len(jobs_of(cluster, str(run))) == 1  # the second one has only watched
    for out, _ in outs:
        assert "step 12/200" in out
    code, lines, err = submit(cluster, folder, *words)
    assert code == 0, "\n".join([*lines[-20:], err])
    assert lines[-1] == f"200 of 200 steps done: {run}"
    assert len(jobs_of(cluster, str(run))) == 2
    told = [json.loads(line) for line in log.read_text().splitlines()]
    again = len({(line["pid"], line["step"]) for line in told if line["index"] == 0}) - 200
    assert 0 <= again <= 10  # what lies after the newest checkpoint is computed twice, and no more
    assert {line["step"] for line in told} == set(range(200))


def is_driver(process: psutil.Process) -> bool:
    """Tell whether a process is the program of a job of ours."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return words[1:4] == ["-m", "medalign.cli", "train"]


def wait_until(holds, process: subprocess.Popen, seconds: float = 180) -> None:
    """Wait for something that happens while a process runs."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
