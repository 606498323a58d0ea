"""Locks: one owner, refused quickly by name, taken over from the dead, on a folder and on a real S3 server."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from fault_proxy import Rule
from s3_places import BUCKET, behind_proxy, serving

from medalign import storage
from medalign.errors import RunLockedError
from medalign.storage import locks
from medalign.storage.locks import Owner, hold

HOLD = """
import sys, time
from medalign.storage.locks import hold
with hold(sys.argv[1], of="the run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def server():
    """A real S3 server; it is what s3:// means in this module."""
    with serving() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def lock(request, tmp_path):
    """The URI of a lock of each kind."""
    if request.param == "file":
        return str(tmp_path / "run" / "run.lock")
    request.getfixturevalue("server")
    return f"s3://{BUCKET}/{tmp_path.name}/run.lock"


@contextlib.contextmanager
def other_process(lock):
    """Yield a process that holds a lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_owner_is_refused_within_seconds_by_the_name_of_the_first(lock):
    with other_process(lock) as process:
        content = storage.read_version(lock)
        began = time.monotonic()
        with (
            pytest.raises(RunLockedError, match=rf"the run: .*process {process.pid} on \S+, since \d{{4}}-.*run\.uri"),
            hold(lock, of="the run"),
        ):
            pass
        assert time.monotonic() - began < 2
        assert storage.read_version(lock).data == content.data


def test_the_lock_of_a_killed_process_is_taken_over_and_released(lock, caplog):
    with other_process(lock) as process:
        process.kill()
        process.wait()
        with hold(lock, of="the run") as owner:
            assert Owner.loads(storage.read_version(lock).data) == owner
            assert owner.pid == os.getpid()
        assert not storage.exists(lock)
    assert f"taken over from process {process.pid}" in caplog.text


def test_of_many_that_find_a_dead_owner_one_takes_over(lock):
    dead = replace(Owner.of_this_process(), pid=2**22 + 1)
    storage.write_new(lock, dead.dumps(0))
    outcomes, go = [], threading.Barrier(6)

    def take():
        go.wait()
        try:
            with hold(lock, of="the run", on_lost=lambda: None) as owner:
                outcomes.append(owner)
                end = time.monotonic() + 30
                while len(outcomes) < 6 and time.monotonic() < end:
                    time.sleep(0.02)
        except RunLockedError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(each) for each in outcomes].count(Owner) == 1
    assert not storage.exists(lock)


def test_an_owner_elsewhere_is_alive_for_a_minute_after_its_last_sign(lock):
    elsewhere = replace(Owner.of_this_process(), host="other", machine="other boot", pid=1)
    storage.write_new(lock, elsewhere.dumps(0))
    with pytest.raises(RunLockedError, match=r"process 1 on other.*last seen \d s ago"), hold(lock, of="the run"):
        pass
    assert not elsewhere.is_dead(locks.DEAD_AFTER_S - 1)
    assert not elsewhere.is_dead(-3600.0)
    assert elsewhere.is_dead(locks.DEAD_AFTER_S + 1)


def test_a_process_number_used_again_is_not_the_owner():
    own = Owner.of_this_process()
    assert not own.is_dead(1e9)
    assert replace(own, process="1").is_dead(0.0)
    assert Owner.loads(own.dumps(3)) == own


def test_a_lock_is_touched_and_released_whatever_happens(lock, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.1)

    def fail():
        with hold(lock, of="the run"):
            end = time.monotonic() + 20
            while json.loads(storage.read_version(lock).data)["beat"] < 3:
                assert time.monotonic() < end
                time.sleep(0.05)
            raise ValueError("the run fails")

    with pytest.raises(ValueError, match="the run fails"):
        fail()
    assert not storage.exists(lock)
    assert not [thread for thread in threading.enumerate() if thread.name == "medalign-lock"]


def test_an_owner_whose_lock_is_taken_away_is_interrupted_and_told_by_whom(lock, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.1)
    thief = replace(Owner.of_this_process(), host="thief", machine="another")

    def work():
        with hold(lock, of="the run"):
            storage.write_bytes(lock, thief.dumps(0))
            time.sleep(20)

    began = time.monotonic()
    with pytest.raises(RunLockedError, match="lost to another run: process .* on thief"):
        work()
    assert time.monotonic() - began < 10
    assert Owner.loads(storage.read_version(lock).data) == thief


def test_ctrl_c_stays_an_interruption(lock):
    with pytest.raises(KeyboardInterrupt), hold(lock, of="the run"):
        raise KeyboardInterrupt
    assert not storage.exists(lock)


def test_what_is_no_lock_is_left_alone(lock):
    storage.write_bytes(lock, b"[]")
    with pytest.raises(RunLockedError, match="not a lock that this program has written"), hold(lock, of="the run"):
        pass
    assert storage.read_bytes(lock) == b"[]"


def test_a_lock_survives_touches_whose_answers_are_lost(server, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.1)
    lock = f"s3://{BUCKET}/lost/run.lock"
    with behind_proxy(server) as proxy, hold(lock, of="the run") as owner:
        for lost in (2, 4):
            proxy.rules[:] = [Rule("reset", operation="PutObject", times=2)]
            end = time.monotonic() + 30
            while proxy.injected["reset"] < lost:
                assert time.monotonic() < end
                time.sleep(0.05)
            beat = json.loads(storage.read_version(lock).data)["beat"]
            while json.loads(storage.read_version(lock).data)["beat"] < beat + 2:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert Owner.loads(storage.read_version(lock).data) == owner
    assert not storage.exists(lock)


def test_training_refuses_a_run_that_is_at_work(tmp_path):
    from striped_corpus import write_corpus

    from medalign import train

    corpus, run = write_corpus(tmp_path / "corpus", {"train": 48}), tmp_path / "run"
    options = [f"data.corpus={corpus}", f"run.uri={run}", "train.workers=0", "train.steps=1"]
    options += ["train.micro_batch=16", "train.global_batch=16", "train.validate_every=0"]
    with other_process(str(run / "run.lock")) as process:
        began = time.monotonic()
        with pytest.raises(RunLockedError, match=f"^{run}: another run is at work here: process {process.pid} on "):
            train("lvm_med/tiny_cpu", options)
        assert time.monotonic() - began < 5
    assert sorted(path.name for path in run.iterdir()) == [".run.lock.guard", "run.lock"]
