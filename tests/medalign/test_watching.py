"""Watching a run: its state, its pace, its failures and its log, from its files alone."""

import json
from pathlib import Path

import pytest

from medalign import storage
from medalign.errors import RunError
from medalign.storage import locks
from medalign.tracking.attempts import read_attempts, recording
from medalign.tracking.json_lines import JsonLines
from medalign.watching import follow, log_lines, status
from medalign.watching.status import seconds_per_step


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Return a run that has been claimed."""
    uri = str(tmp_path / "run")
    storage.write_bytes(storage.join(uri, "recipe.yaml"), b"train: {steps: 100, global_batch: 8}\n")
    return uri


def write_metrics(run: str, *steps: int) -> None:
    lines = JsonLines(run)
    for step in steps:
        lines.log(step, {"loss": 1 / step, "seconds": 2.0 * step})
    lines.close()


def test_a_place_without_a_run_is_refused(tmp_path: Path) -> None:
    for read in (status, log_lines):
        with pytest.raises(RunError, match="no run here"):
            read(str(tmp_path))


def test_a_claimed_run_has_not_begun(run: str) -> None:
    found = status(run)
    assert (found.state, found.step, found.total_steps, found.checkpoint) == ("claimed", 0, 100, None)
    assert (found.owner, found.eta_seconds, found.attempts, found.failures) == (None, None, 0, 0)


def test_a_run_under_way_tells_owner_pace_and_time_left(run: str) -> None:
    write_metrics(run, 10, 20, 30)
    with locks.hold(locks.of_run(run), of=run) as owner, recording(run, world=2, step=0, total_steps=100):
        found = status(run)
    assert (found.state, found.step, found.total_steps) == ("running", 30, 100)
    assert found.seconds_per_step == 2.0
    assert found.eta_seconds == 140.0
    assert found.owner is not None
    assert found.owner["pid"] == owner.pid
    assert found.failures == 0  # it runs
    assert json.loads(json.dumps(found.as_dict()))["figures"]["loss"] == pytest.approx(1 / 30)


def test_the_pace_is_of_one_process() -> None:
    lines = [{"step": step, "seconds": seconds} for step, seconds in ((10, 100), (20, 200), (30, 4), (40, 8))]
    assert seconds_per_step(lines) == pytest.approx(0.4)
    assert seconds_per_step(lines[:3]) is None  # the newest process has one line
    assert seconds_per_step([]) is None


@pytest.mark.parametrize(
    ("outcome", "state", "failures"),
    [("finished", "finished", 0), ("asked", "stopped", 0), ("preempted", "stopped", 0)],
)
def test_an_attempt_that_ended_gives_the_state(run: str, outcome: str, state: str, failures: int) -> None:
    with recording(run, world=1, step=0, total_steps=100) as attempt:
        attempt.end(outcome, step=7, device="cpu")
    found = status(run)
    assert (found.state, found.failures) == (state, failures)
    ended = read_attempts(run)[0]
    assert (ended.last_step, ended.outcome) == (7, outcome)
    assert ended.peak_bytes > 1e6


def test_a_failed_attempt_names_the_error_and_none_of_its_words(run: str) -> None:
    with pytest.raises(ValueError, match="Jane"), recording(run, world=1, step=3, total_steps=100):
        raise ValueError("patient Jane")
    found = status(run)
    assert (found.state, found.failures, found.errors) == ("failed", 1, ("ValueError",))
    assert "Jane" not in storage.read_bytes(storage.join(run, "attempts.jsonl")).decode()


def test_an_attempt_without_an_end_was_killed(run: str) -> None:
    with recording(run, world=1, step=0, total_steps=100):
        killed = storage.read_bytes(storage.join(run, "attempts.jsonl"))
    storage.write_bytes(storage.join(run, "attempts.jsonl"), killed)
    found = status(run)
    assert (found.state, found.failures) == ("died", 1)
    with recording(run, world=1, step=0, total_steps=100) as attempt:
        attempt.end("finished", step=100, device="cpu")
    assert (status(run).state, status(run).failures, status(run).attempts) == ("finished", 1, 2)


def test_the_log_is_in_order_of_the_steps(run: str) -> None:
    with recording(run, world=2, step=0, total_steps=100) as attempt:
        attempt.end("asked", step=20, device="cpu")
    lines = JsonLines(run)
    lines.log(10, {"loss": 0.5})
    lines.log(1, {"inert_matching_accuracy": 0.99}, kind="event")
    lines.log(20, {"loss": 0.25})
    lines.log(20, {"matching_accuracy": 0.75}, kind="validation")
    lines.close()
    hole = {"row": 4, "id": "a1b2", "reason": "cannot be decoded", "step": 12}
    storage.write_bytes(storage.join(run, "quarantine.jsonl"), json.dumps(hole).encode())
    found = log_lines(run)
    starts = ["attempt 1 begins at step 0/100, 2 workers", "step 1 warning: the alignment is inert"]
    starts += ["step 10 train: loss 0.5", "step 12 row a1b2 left out: cannot be decoded", "step 20 train: loss 0.25"]
    starts += ["step 20 validation: matching_accuracy 0.75", "attempt 1 ends: asked"]
    assert all(start in line for start, line in zip(starts, found, strict=True)), found
    assert status(run).quarantined == 1


def test_following_ends_when_nothing_works_on_the_run(run: str) -> None:
    write_metrics(run, 10)
    with recording(run, world=1, step=0, total_steps=100) as attempt:
        attempt.end("asked", step=10, device="cpu")
        found = []

        def pause(seconds: float) -> None:
            write_metrics(run, 10, 20)
            killed.append(seconds)

        killed: list[float] = []
        with locks.hold(locks.of_run(run), of=run):
            lines = follow(run, seconds=0.01, sleep=pause)
            found += [next(lines) for _ in range(3)]
        found += list(lines)
    assert killed
    assert sum("step 20 train" in line for line in found) == 1
    assert sum("step 10 train" in line for line in found) == 1
