"""metrics.jsonl holds every step once, is never half written, survives an outage, and can be followed."""

from __future__ import annotations

import json
import math
import os
import threading
import time

import pytest

from medalign.errors import RunError, StorageError
from medalign.tracking.json_lines import JsonLines, follow, read_lines


def train(uri: str, *, done: int, until: int, validate: int = 0) -> None:
    """Log the steps after `done`; leave like a killed process: nothing is closed after the last flush."""
    tracker = JsonLines.resume(uri, done)
    for step in range(done + 1, until + 1):
        tracker.log(step, {"loss": float(step)})
        if validate and step % validate == 0:
            tracker.log(step, {"loss": 0.0}, kind="validation")
    tracker.flush()


def test_a_resumed_run_has_every_step_once(tmp_path):
    uri = str(tmp_path)
    train(uri, done=0, until=7, validate=2)
    train(uri, done=4, until=9, validate=2)
    lines = read_lines(uri)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 10))
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4, 6, 8]


def test_later_lines_are_gone_as_soon_as_a_run_is_resumed(tmp_path):
    train(str(tmp_path), done=0, until=7)
    JsonLines.resume(str(tmp_path), 4)
    assert [line["step"] for line in read_lines(str(tmp_path))] == [1, 2, 3, 4]


def test_a_run_that_starts_over_keeps_nothing(tmp_path):
    tracker = JsonLines.resume(str(tmp_path), 0)
    tracker.log(0, {"loss": 1.0}, kind="validation")
    tracker.close()
    train(str(tmp_path), done=0, until=1)
    assert read_lines(str(tmp_path)) == [{"step": 1, "kind": "train", "loss": 1.0}]


def test_the_kept_lines_are_the_same_bytes(tmp_path):
    train(str(tmp_path), done=0, until=5)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    JsonLines.resume(str(tmp_path), 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("resumed", [False, True])
def test_a_training_step_is_never_logged_twice(resumed, tmp_path):
    train(str(tmp_path), done=0, until=3)
    tracker = JsonLines.resume(str(tmp_path), 3 if resumed else 0)
    if not resumed:
        tracker.log(3, {})
    with pytest.raises(ValueError, match="training step 3 is logged already"):
        tracker.log(3, {"loss": 1.0})
    tracker.log(3, {"skipped": 1.0}, kind="event")


def test_a_value_cannot_hide_the_step():
    with pytest.raises(ValueError, match="named step or kind"):
        JsonLines("unused").log(1, {"step": 2.0})


def test_what_is_not_finite_is_null_in_json_and_nan_when_read(tmp_path):
    tracker = JsonLines(str(tmp_path))
    tracker.log(1, {"loss": math.nan, "norm": math.inf, "fine": 1.0})
    tracker.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)["loss"] is None
    (line,) = read_lines(str(tmp_path))
    assert math.isnan(line["loss"])
    assert math.isnan(line["norm"])
    assert line["fine"] == 1.0


def test_a_reader_never_sees_half_a_file(tmp_path):
    tracker, stop, seen = JsonLines(str(tmp_path), seconds=0.0), threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append([line["step"] for line in read_lines(str(tmp_path))])  # raises on half a line

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 101):
        tracker.log(step, {"loss": 1 / step})
        tracker.flush()
    stop.set()
    reader.join()
    assert all(steps == list(range(1, len(steps) + 1)) for steps in seen)
    assert len({len(steps) for steps in seen}) > 3, "the reader looked while the file grew"
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_writing_is_seldom_and_a_flush_is_at_once(tmp_path):
    tracker = JsonLines(str(tmp_path), seconds=60.0)
    for step in range(1, 50):
        tracker.log(step, {"loss": 1.0})
    assert not (tmp_path / "metrics.jsonl").exists()
    tracker.flush()
    assert len(read_lines(str(tmp_path))) == 49
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    tracker.flush()
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before, "nothing new, nothing written"


def test_an_outage_costs_no_line_and_does_not_stop_training(tmp_path, caplog):
    run = tmp_path / "run"
    run.write_text("in the way")
    tracker = JsonLines(str(run), seconds=0.0)
    tracker.log(1, {"loss": 1.0})
    assert "metrics wait in memory" in caplog.text
    with pytest.raises(StorageError, match="cannot be reached"):
        tracker.flush()
    run.unlink()
    tracker.log(2, {"loss": 2.0})
    tracker.close()
    assert [line["step"] for line in read_lines(str(run))] == [1, 2]


@pytest.mark.parametrize("text", ["nonsense", '{"step": "a", "kind": "train"}', "[1]", '{"loss": 1}', '{"step": 1}'])
def test_a_file_of_something_else_is_refused(text, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "kind": "train"}}\n{text}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl:2: not a line of metrics"):
        JsonLines.resume(str(tmp_path), 1)
    assert text in (tmp_path / "metrics.jsonl").read_text()


class Recorded:
    def __init__(self):
        self.told = []

    def log(self, step, values, *, kind="train"):
        self.told.append((step, values, kind))

    def flush(self):
        raise AssertionError("a follower only logs")

    def close(self, *, failed=False):
        raise AssertionError("a follower only logs")


def test_a_follower_sees_every_new_line_and_goes_on_after_a_resume(tmp_path):
    uri, watcher = str(tmp_path), Recorded()
    train(uri, done=0, until=3)
    with follow(uri, watcher, seconds=0.02):
        train(uri, done=3, until=6)
        wait_until(lambda: len(watcher.told) == 3)
        JsonLines.resume(uri, 4)
        time.sleep(0.2)  # the follower sees the shorter file
        train(uri, done=4, until=7)
    assert watcher.told == [(step, {"loss": float(step)}, "train") for step in (4, 5, 6, 5, 6, 7)]


def wait_until(is_so, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
