"""The page's plan beside what happened, of a run that really ran; and Ray's metrics of one."""

from pathlib import Path

import pytest
from striped_corpus import write_corpus

from medalign import train
from medalign.reports.page import report
from medalign.reports.planned import planned
from medalign.reports.run_files import read
from medalign.watching import log_lines, status

KEYS = ["data.image_size=32", "train.micro_batch=16", "train.global_batch=32", "train.steps=3", "train.workers=0"]
KEYS += ["train.validate_every=0", "train.checkpoint_every=0", "schedule.warmup_steps=0", "tracking.log_every=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    at = tmp_path_factory.mktemp("planned")
    corpus = write_corpus(at / "corpus", {"train": 70, "val": 21})
    return train("lvm_med/tiny_cpu", [*KEYS, f"data.corpus={corpus}", f"run.uri={at / 'run'}"]).uri


def test_steps_and_checkpoints_are_as_planned(run: str) -> None:
    found = planned(read(run))
    assert found is not None
    lines = {line.name: line for line in found.lines}
    for name in ("steps", "samples", "bytes of a checkpoint"):
        assert (lines[name].planned, lines[name].difference) == (lines[name].actual, "+0.0%"), name
    assert lines["steps"].actual == "3"
    assert "peak memory of rank 0's process, MB" in lines


def test_the_page_shows_it(run: str) -> None:
    page = Path(report(run)).read_text()
    assert "<h2>Plan and actual</h2>" in page
    assert "bytes of a checkpoint" in page


def test_a_finished_run_has_a_status_and_a_log(run: str) -> None:
    found = status(run)
    assert (found.state, found.step, found.total_steps, found.checkpoint_step) == ("finished", 3, 3, 3)
    assert (found.attempts, found.failures, found.owner) == (1, 0, None)
    lines = log_lines(run)
    assert "attempt 1 begins at step 0/3" in lines[0]
    assert "attempt 1 ends: finished" in lines[-1]
    assert sum(" train: loss" in line for line in lines) == 3
