"""Damage: every flipped bit, every missing, cut or swapped file is caught, by loading and by verify alike."""

import json
import random
import shutil
from pathlib import Path

import pytest
from plain_tensors import Meeting, PlainTensors

from medalign import checkpoint
from medalign.checkpoint import Saved, TrainState
from medalign.errors import CheckpointError, StorageError

FLIPS = 300


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two checkpoints by two ranks each."""
    run, meeting = tmp_path_factory.mktemp("run"), Meeting(2)
    for step in (1, 2):
        state = TrainState(step=step, seed=1, global_batch=8, data={"train": "ab"})
        done = meeting.run(
            lambda rank, state=state: checkpoint.save(
                str(run), state, PlainTensors(state.step, rank=rank, meeting=meeting), recipe={"a": 1}
            )
        )
        assert all(isinstance(uri, str) for uri in done)
    return run


@pytest.fixture
def damaged(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage; the newest checkpoint's folder."""
    shutil.copytree(intact, tmp_path / "copy")
    return Path(checkpoint.uri_of(str(tmp_path / "copy"), 2))


def is_caught(folder: Path) -> bool:
    """Whether loading fails, and changes nothing that matters: the error is ours, and verify finds something."""
    saved = Saved(str(folder), TrainState(step=2, seed=1, global_batch=8))
    with pytest.raises((CheckpointError, StorageError)):
        checkpoint.load(saved, PlainTensors(5))
    return bool(checkpoint.verify(saved))


def test_what_is_intact_loads_and_verifies(damaged: Path) -> None:
    saved = checkpoint.latest(str(damaged.parents[1]))
    assert saved is not None
    assert checkpoint.verify(saved) == []
    found = PlainTensors(5)
    checkpoint.load(saved, found)
    assert found.same_as(PlainTensors(2))


def test_every_flipped_bit_is_caught(damaged: Path) -> None:
    draw = random.Random(0)
    files = sorted(damaged.iterdir())
    assert len(files) == 5  # two of weights, two of the optimizer, the manifest
    caught = 0
    for number in range(FLIPS):
        file = files[number % len(files)]
        whole = file.read_bytes()
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        caught += is_caught(damaged)
        file.write_bytes(whole)
    assert caught == FLIPS


@pytest.mark.parametrize("number", range(4))
def test_every_missing_or_cut_file_is_caught(damaged: Path, number: int) -> None:
    file = sorted(damaged.glob("*.safetensors"))[number]
    whole = file.read_bytes()
    for kept in (0, 7, 8, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:kept])
        assert is_caught(damaged)
    file.write_bytes(whole + b"more")
    assert is_caught(damaged)
    file.unlink()
    assert is_caught(damaged)


def test_every_swap_of_two_files_is_caught(damaged: Path) -> None:
    files = sorted(damaged.glob("*.safetensors"))
    for first in files:
        for second in files:
            if first < second:
                one, two = first.read_bytes(), second.read_bytes()
                first.write_bytes(two)
                second.write_bytes(one)
                assert is_caught(damaged), (first.name, second.name)
                first.write_bytes(one)
                second.write_bytes(two)


def test_a_file_of_another_step_is_caught(damaged: Path) -> None:
    older = Path(checkpoint.uri_of(str(damaged.parents[1]), 1))
    for kind in ("model", "optimizer"):
        own, other = sorted(damaged.glob(f"{kind}-00000*"))[0], sorted(older.glob(f"{kind}-00000*"))[0]
        whole = own.read_bytes()
        shutil.copy(other, own)
        assert is_caught(damaged)
        own.write_bytes(whole)
    shutil.copy(older / "manifest.json", damaged / "manifest.json")
    assert is_caught(damaged)


def test_tensors_whose_names_are_exchanged_in_a_header_are_caught(damaged: Path) -> None:
    file = sorted(damaged.glob("model-00001*"))[0]
    data = file.read_bytes()
    assert b"encoder.b" in data
    assert b'"head"' in data
    file.write_bytes(data.replace(b"encoder.b", b"ENCODER.B"))
    assert is_caught(damaged)


def test_verify_names_the_tensor_the_file_and_what_is_foreign(damaged: Path) -> None:
    saved = Saved(str(damaged), TrainState(step=2, seed=1, global_batch=8))
    first, second, *_ = sorted(damaged.glob("*.safetensors"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.unlink()
    (damaged / "stranger.bin").touch()
    assert checkpoint.verify(saved) == [
        f"{first.name} has another hash than the manifest's: encoder.norm.running_mean",
        f"{second.name} is missing",
        "stranger.bin is not listed in the manifest",
    ]


def test_diff_tells_state_recipe_and_tensors_apart(intact: Path) -> None:
    one, two = (Saved(uri, TrainState(step=0, seed=0, global_batch=0)) for uri in checkpoint.complete(str(intact)))
    found = checkpoint.diff(one, two)
    assert found.facts == ["state.step: 1 -> 2", "optimizer.step: 1 -> 2"]
    assert (len(found.changed), found.same) == (7, 0)
    assert checkpoint.diff(one, one).is_empty


def rewrite(folder: Path, **fields: object) -> None:
    """Change fields of a manifest and mend its hash, as another release might have written it."""
    from medalign.checkpoint import manifest

    raw = json.loads((folder / "manifest.json").read_bytes())
    raw.pop("sha256")
    body = {**raw, **fields}
    (folder / "manifest.json").write_bytes(manifest._dump({**body, "sha256": manifest._hash(body)}))


def test_fields_that_this_release_does_not_know_are_left_alone(damaged: Path) -> None:
    rewrite(damaged, novelty={"a": [1, 2]})
    saved = checkpoint.latest(str(damaged.parents[1]))
    assert saved is not None
    assert checkpoint.verify(saved) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": "medalign.checkpoint/3"}, "format 3 is of a newer MedAlign, this one reads 2; update MedAlign"),
        ({"schema": "medalign.checkpoint/1"}, "format 1 has no hash of each tensor"),
        ({"schema": "something/2"}, "not a checkpoint's manifest"),
        ({"schema": None}, "not a checkpoint's manifest"),
        ({"state": {"step": 1, "epoch": 2}}, "no state that can be read"),
        ({"files": [1]}, "no state that can be read"),
        ({"files": {"../../etc/passwd": {}}}, "no state that can be read"),
        ({"optimizer": {}}, "no state that can be read"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_the_reason(damaged: Path, fields: dict, message: str) -> None:
    rewrite(damaged, **fields)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.latest(str(damaged.parents[1]))


@pytest.mark.parametrize("text", ["{", "[1]", "null", "[" * 100_000, ""])
def test_a_manifest_that_is_nonsense_is_refused(damaged: Path, text: str) -> None:
    (damaged / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="not JSON|not a checkpoint's manifest"):
        checkpoint.latest(str(damaged.parents[1]))
