"""Signals and a killed driver: `medalign train` ends as it should, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos_rig import figures, write_recipe
from striped_corpus import write_corpus

from medalign import checkpoint

STEPS = 400
WAIT_S = 300  # a busy machine takes minutes to start Ray
# the driver sees what a user's sees: no settings of these tests but the speed of one thread
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("signals")
    corpus = write_corpus(folder / "stripes", {"train": 100, "val": 16})
    keys = {"steps": STEPS, "checkpoint_every": 50, "validate_every": 0}
    return write_recipe(folder, corpus, objective="info_nce", **keys)


@contextmanager
def training(recipe: str, run: Path, *more: str, after: int = 3) -> Iterator[subprocess.Popen[str]]:
    """Start the command, and give it when `after` steps are done."""
    words = [sys.executable, "-m", "medalign.cli", "train", recipe, f"run.uri={run}", "tracking.log_every=1", *more]
    with open(run.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, text=True, env=ENVIRONMENT)
    try:
        end = time.monotonic() + WAIT_S
        while steps_done(run) < after:
            assert process.poll() is None, run.with_suffix(".log").read_text()[-3000:]
            assert time.monotonic() < end, run.with_suffix(".log").read_text()[-3000:]
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def steps_done(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def end_by(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, float]:
    """Send a signal; return the exit code and how long the end took."""
    began = time.monotonic()
    process.send_signal(number)
    code = process.wait(timeout=60)
    return code, time.monotonic() - began


def goes_on(recipe: str, run: Path, *more: str) -> None:
    """Let the same command go on for a few steps from the newest checkpoint, and check that no step is told twice."""
    saved = checkpoint.latest(str(run))
    assert saved is not None
    with training(recipe, run, *more, after=saved.state.step + 2):
        pass
    steps = [line["step"] for line in figures(run)]
    assert steps == sorted(set(steps))
    assert steps[: saved.state.step] == list(range(1, saved.state.step + 1))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.chaos)])
def test_a_signal_ends_training_in_one_process_with_a_checkpoint(
    recipe: str, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    with training(recipe, run) as process:
        seen = steps_done(run)
        code, seconds = end_by(process, number)
    print(f"R7 one process, {number.name}: exit code {code} after {seconds:.1f} s")  # noqa: T201
    assert code == 128 + number
    assert seconds < 10
    saved = checkpoint.latest(str(run))
    assert saved is not None
    assert seen <= saved.state.step < STEPS
    told = run.with_suffix(".log").read_text()
    assert f"stopped by {number.name} after step {saved.state.step}, which is saved; the same command goes on." in told
    assert "Traceback" not in told
    assert not (run / "run.lock").exists()
    if number == signal.SIGTERM:
        goes_on(recipe, run)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_on_ray_with_a_checkpoint(recipe: str, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    with training(recipe, run, "train.workers=2") as process:
        code, seconds = end_by(process, number)
    print(f"R7 two workers on Ray, {number.name}: exit code {code} after {seconds:.1f} s")  # noqa: T201
    assert code == 128 + number
    assert seconds < 10
    saved = checkpoint.latest(str(run))
    assert saved is not None
    assert 3 <= saved.state.step < STEPS
    assert saved.state.step % 50
    goes_on(recipe, run, "train.workers=2")


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_interrupt_ends_at_once(recipe: str, tmp_path: Path, workers: int) -> None:
    run = tmp_path / "run"
    slow = "objective={type: own_objectives:Slow, projection_size: 8}"  # the step at work will not end soon
    with training(recipe, run, f"train.workers={workers}", slow) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        code, seconds = end_by(process, signal.SIGINT)
    print(f"R7 {workers} workers, second SIGINT: exit code {code} after {seconds:.1f} s")  # noqa: T201
    assert code == 130
    assert seconds < 2


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_killed_driver_s_command_goes_on_when_it_is_given_again(recipe: str, tmp_path: Path) -> None:
    keys = ("train.workers=2", "train.steps=20", "train.checkpoint_every=4")
    for name, kills in (("calm", ()), ("killed", (5, 11))):
        run = tmp_path / name
        for step in kills:
            with training(recipe, run, *keys, after=step) as process:
                process.kill()
                process.wait()
                print(f"R4 the driver killed after step {steps_done(run)}")  # noqa: T201
        with training(recipe, run, *keys, after=1) as process:
            assert process.wait(timeout=200) == 0, run.with_suffix(".log").read_text()[-3000:]
    calm, killed = (checkpoint.latest(str(tmp_path / name)) for name in ("calm", "killed"))
    assert calm is not None
    assert killed is not None
    found = checkpoint.diff(calm, killed)
    assert found.changed == []
    assert found.same > 20
    assert figures(tmp_path / "killed") == figures(tmp_path / "calm")
    assert [line["step"] for line in figures(tmp_path / "killed")] == list(range(1, 21))
