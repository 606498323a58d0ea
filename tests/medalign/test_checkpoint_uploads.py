"""Checkpoints on their way to a real S3 server: behind training, at most two at once, complete or absent, in time."""

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from crash_rig import KEEP, POINTS, STEPS, advance, left_behind, train, train_and_die, undisturbed
from fault_proxy import Rule
from plain_tensors import Meeting, PlainTensors
from s3_places import BUCKET, behind_proxy, serving

from medalign import checkpoint, faults, storage
from medalign.checkpoint import Saver, TrainState
from medalign.errors import CheckpointError

pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/checkpoints-{abs(hash(request.node.name)):x}-{time.time_ns():x}"


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


def scratch(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "scratch").glob("*/step-*"))


def state(step: int) -> TrainState:
    return TrainState(step=step, seed=1, global_batch=8)


def steps(run: str) -> list[int]:
    return [int(uri[-8:]) for uri in checkpoint.complete(run)]


def wait_until(happened, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_run_of_saves_on_s3_keeps_its_newest_and_leaves_nothing_else(server, run: str, tmp_path: Path) -> None:
    assert train(run).same_as(undisturbed()[STEPS])
    assert steps(run) == [1, STEPS - 1, STEPS]
    assert left_behind(run) == []
    saved = checkpoint.latest(run)
    assert saved is not None
    found = PlainTensors(9)
    checkpoint.load(saved, found)
    assert found.same_as(undisturbed()[STEPS])
    assert os.listdir(tmp_path / "scratch") == []


def test_training_goes_on_while_the_store_is_away_and_waits_at_the_third_checkpoint(
    server, run: str, tmp_path: Path
) -> None:
    with behind_proxy(server) as proxy:
        tensors = PlainTensors(0)
        saver = Saver(run, tensors, keep=KEEP, deadline=60)
        proxy.rules.append(Rule("refuse"))
        for step in (1, 2):
            advance(tensors, step)
            since = time.monotonic()
            saver.save(state(step), {})
            assert time.monotonic() - since < 1  # staged, not uploaded
        third = threading.Thread(target=saver.save, args=(state(3), {}))
        third.start()
        third.join(1.0)
        assert third.is_alive()
        assert scratch(tmp_path) == ["step-00000001", "step-00000002"]
        proxy.rules.clear()
        third.join(30)
        assert not third.is_alive()
        saver.drain()
        assert steps(run) == [2, 3]
        found = PlainTensors(9)
        checkpoint.load(checkpoint.Saved(checkpoint.uri_of(run, 2), state(2)), found)
        assert found.same_as(undisturbed()[2])  # what was staged then, not what the tensors are now
    assert os.listdir(tmp_path / "scratch") == []


def test_an_upload_beyond_its_deadline_stops_the_run_and_names_the_last_good_one(server, run: str) -> None:
    with behind_proxy(server) as proxy:
        saver = Saver(run, PlainTensors(1), deadline=4)
        saver.save(state(1), {})
        saver.drain()
        proxy.rules.append(Rule("refuse"))
        since = time.monotonic()
        saver.save(state(2), {})
        expected = (
            r"step-00000002: has not arrived \(train.upload_deadline = 4 s\).*last good checkpoint: .*step-00000001"
        )
        with pytest.raises(CheckpointError, match=expected):
            saver.drain()
        assert time.monotonic() - since < 4 + 2
        for call in (saver.check, saver.drain, lambda: saver.save(state(3), {})):
            with pytest.raises(CheckpointError, match=expected):
                call()
        proxy.rules.clear()
        assert steps(run) == [1]
        Saver(run, PlainTensors(1))  # the next process clears up
        assert checkpoint.incomplete(run) == []


def test_a_refusal_stops_the_run_at_once(server, run: str) -> None:
    with behind_proxy(server) as proxy:
        saver = Saver(run, PlainTensors(1), deadline=60)
        proxy.rules.append(Rule("expired"))
        since = time.monotonic()
        saver.save(state(1), {})
        with pytest.raises(CheckpointError, match="access refused .*last good checkpoint: none yet"):
            saver.drain()
        assert time.monotonic() - since < 15


def test_an_error_that_ends_the_run_does_not_wait_for_the_store(server, run: str) -> None:
    with behind_proxy(server) as proxy:
        saver = Saver(run, PlainTensors(1), deadline=60)
        proxy.rules.append(Rule("refuse"))
        saver.save(state(1), {})
        since = time.monotonic()
        saver.abandon(1.0)
        assert time.monotonic() - since < 3


def test_two_ranks_bring_a_share_each_and_know_when_all_is_there(server, run: str) -> None:
    meeting = Meeting(2)

    def work(rank: int) -> list[int]:
        tensors = PlainTensors(3, rank=rank, meeting=meeting)
        saver = Saver(run, tensors, keep=KEEP, deadline=60)
        for step in (1, 2, 3):
            saver.save(state(step), {})
        saver.drain()
        return steps(run)  # what is drained is complete, on every rank; rank 0 may still be pruning

    assert all({2, 3} <= set(seen) for seen in meeting.run(work))
    assert steps(run) == [2, 3]
    saved = checkpoint.latest(run)
    assert saved is not None
    assert checkpoint.verify(saved) == []
    assert len(storage.list_files(saved.uri)) == 5


def test_a_rank_whose_partner_fails_stops_by_the_deadline_too(server, run: str) -> None:
    meeting = Meeting(2)

    def work(rank: int) -> None:
        saver = Saver(run, PlainTensors(3, rank=rank, meeting=meeting), deadline=3)
        if rank == 1:
            saver._uploads._bring = lambda upload: time.sleep(60)  # type: ignore[union-attr, method-assign]
            saver.save(state(1), {})
            return
        saver.save(state(1), {})
        saver.drain()

    failed, _ = meeting.run(work)
    assert isinstance(failed, CheckpointError)
    assert "another rank's share is missing" in str(failed)
    assert steps(run) == []


def test_broken_requests_break_no_checkpoint(server, run: str) -> None:
    rules = [Rule(kind, share=0.07) for kind in ("slow_down", "internal", "reset")]
    with behind_proxy(server, *rules, seed=4) as proxy:
        assert train(run).same_as(undisturbed()[STEPS])
        assert sum(proxy.injected.values()) > 10
    assert steps(run) == [1, STEPS - 1, STEPS]
    assert left_behind(run) == []


def test_the_folders_of_dead_processes_go(server, run: str, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    saver = Saver(run, PlainTensors(1))
    (own,) = (tmp_path / "scratch").iterdir()
    dead, alive = (own.with_name(f"{own.name.rsplit('-', 2)[0]}-1-{pid}") for pid in (child, os.getppid()))
    for folder in (dead, alive):
        (folder / "step-00000001").mkdir(parents=True)
    Saver(run, PlainTensors(1))
    assert (dead.exists(), alive.exists()) == (False, True)
    saver.abandon(0)


@pytest.mark.chaos
@pytest.mark.parametrize("visit", [2, 3, 4])
@pytest.mark.parametrize("point", [*POINTS, "ckpt.after_upload"])
def test_a_crash_at_any_point_of_an_upload_loses_nothing_that_was_complete(
    server, run: str, point: str, visit: int
) -> None:
    assert in_child(lambda: train_and_die(run, f"{point}:{visit}")) == faults.EXIT_CODE
    assert in_child(lambda: check_and_finish(run)) == 0


def in_child(work) -> int:
    """Work in a child, so that this process never has a client of the store, whose threads a fork would break."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(work() or 0)
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def check_and_finish(run: str) -> None:
    states, saved = undisturbed(), checkpoint.latest(run)
    if saved is not None:
        assert saved.state.step == max(steps(run))
        tensors = PlainTensors(99)
        checkpoint.load(saved, tensors)
        assert tensors.same_as(states[saved.state.step])
    next_step = (saved.state.step if saved else 0) + 1
    train(run, steps=next_step)
    assert left_behind(run) == []
    assert train(run).same_as(states[STEPS])
    assert steps(run) == [1, STEPS - 1, STEPS]


@pytest.mark.chaos
def test_an_outage_of_a_minute_is_caught_up_with(server, run: str, tmp_path: Path) -> None:
    with behind_proxy(server) as proxy:
        tensors = PlainTensors(0)
        saver = Saver(run, tensors, keep=KEEP, deadline=300)
        began, step, stalls, queued = time.monotonic(), 0, [], 0
        while time.monotonic() - began < 75:
            is_away = 10 < time.monotonic() - began < 70
            proxy.rules[:] = [Rule("refuse")] if is_away else []
            step += 1
            advance(tensors, step)
            since = time.monotonic()
            if step % 50 == 0 and len(scratch(tmp_path)) < 2:
                saver.save(state(step), {})
                queued += is_away
            stalls.append(time.monotonic() - since)
            assert len(scratch(tmp_path)) <= 2
            time.sleep(0.1)
        assert queued >= 1
        assert max(stalls) < 3  # training went on
        since = time.monotonic()
        saver.save(state(step), {})
        saver.drain()
        assert time.monotonic() - since < 75
        assert steps(run)[-1] == step
        found = PlainTensors(9)
        saved = checkpoint.latest(run)
        assert saved is not None
        checkpoint.load(saved, found)
        assert found.same_as(tensors)
