"""A full disk: seen before the first step where it can be, else every rank stops, and what was complete stays so."""

import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from plain_tensors import Meeting, PlainTensors

from medalign import checkpoint, faults
from medalign.checkpoint import Saver, TrainState, room
from medalign.errors import DiskFullError

SHAPES = {"a": (300, 100), "b": (200, 100), "c": (100,)}
BYTES = 12 * 50_100  # of the data of one checkpoint, with Adam's two


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


def tensors(**keys) -> PlainTensors:
    return PlainTensors(1, shapes=SHAPES, keys=("exp_avg", "exp_avg_sq"), **keys)


def state(step: int) -> TrainState:
    return TrainState(step=step, seed=1, global_batch=8)


def test_a_disk_that_cannot_hold_the_run_s_checkpoints_is_seen_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_500_000))
    saver = Saver(str(tmp_path), tensors(), keep=2)
    saver.check_room(2)
    with pytest.raises(
        DiskFullError, match=r"3 checkpoints of 60\d KB .* need 1.8\d MB .* more, and 1.5 MB .* are free"
    ):
        saver.check_room(10)
    assert DiskFullError.exit_code == 74
    saver.save(state(1), {})
    saver.check_room(10)  # what is there already will be pruned


def test_a_limit_on_the_size_of_files_is_seen_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (300_000, -1))
    with pytest.raises(
        DiskFullError, match=r"largest file needs 401 KB \(\d+ B\), and this process may write files of"
    ):
        Saver(str(tmp_path), tensors()).check_room(1)


def test_a_real_limit_while_saving_leaves_the_old_checkpoint_and_names_the_bytes(tmp_path: Path) -> None:
    saver = Saver(str(tmp_path), tensors())
    saver.save(state(1), {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"this checkpoint needs 60\d KB \(\d+ B\), and this process may write"):
            saver.save(state(2), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.part"))
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    assert saved.state.step == 1
    assert checkpoint.verify(saved) == []
    saver.save(state(3), {})  # there is room again
    assert [uri[-1] for uri in checkpoint.complete(str(tmp_path))] == ["1", "3"]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 2 MiB."""
    at = tmp_path / "small"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", at], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield at
    subprocess.run(["umount", at], check=True)


def test_a_real_disk_that_fills_leaves_the_old_checkpoints(small_disk: Path) -> None:
    saver = Saver(str(small_disk), tensors())
    for step in (1, 2, 3):
        saver.save(state(step), {})
    with pytest.raises(DiskFullError, match=r"the disk is full \(No space left on device\): .* needs 602 KB"):
        saver.save(state(4), {})
    saved = checkpoint.latest(str(small_disk))
    assert saved is not None
    assert saved.state.step == 3
    assert checkpoint.verify(saved) == []
    assert checkpoint.incomplete(str(small_disk)) == []
    checkpoint.prune(str(small_disk), keep=1)
    saver.save(state(5), {})  # there is room again


@pytest.mark.parametrize("point", ["ckpt.mid_file", "ckpt.before_files"])
def test_a_disk_that_fills_on_one_rank_stops_all_of_them(tmp_path: Path, point: str) -> None:
    meeting = Meeting(2)
    for step, plan in ((1, ""), (2, f"{point}:1=full")):  # the first of the two threads to come by
        faults.arm(plan)
        found = meeting.run(
            lambda rank, step=step: checkpoint.save(
                str(tmp_path), state(step), tensors(rank=rank, meeting=meeting), recipe={}
            )
        )
    messages = sorted(map(str, found))
    assert all(isinstance(error, DiskFullError) for error in found)
    assert "the disk is full (No space left on device): this checkpoint needs" in messages[0] + messages[1]
    assert any("the disk is full on another rank" in message for message in messages)
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    assert saved.state.step == 1
    assert checkpoint.verify(saved) == []
    assert checkpoint.incomplete(str(tmp_path)) == []  # what the other rank had written would only take room


@pytest.mark.parametrize("point", ["ckpt.before_manifest", "ckpt.after_manifest"])
def test_a_disk_that_fills_when_the_manifest_is_written_is_told_alike(tmp_path: Path, point: str) -> None:
    saver = Saver(str(tmp_path), tensors())
    saver.save(state(1), {})
    faults.arm(f"{point}=full")
    with pytest.raises(DiskFullError, match="the disk is full"):
        saver.save(state(2), {})
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    assert saved.state.step == (1 if point == "ckpt.before_manifest" else 2)
    assert [line for line in checkpoint.verify(saved) if "not listed" not in line] == []


def test_bytes_are_told_for_people_and_exactly() -> None:
    assert [room.size(count) for count in (0, 999, 1500, 12_345_678, 81 * 10**9)] == [
        *("0 B", "999 B", "1.5 KB (1500 B)", "12.3 MB (12345678 B)", "81 GB (81000000000 B)")
    ]
