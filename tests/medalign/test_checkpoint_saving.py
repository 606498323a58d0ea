"""A run's checkpoints: what is saved comes back on any number of ranks; the newest, the best; pruned never to none."""

import os
import threading
from pathlib import Path

import pytest
import safetensors.torch
from plain_tensors import Meeting, PlainTensors

from medalign import checkpoint
from medalign.checkpoint import Saved, Saver, TrainState, catalogue, saving, staging, uploads, weights
from medalign.errors import CheckpointError


def save(run: Path, step: int, *, figure: float | None = None) -> str:
    state = TrainState(step=step, seed=1, global_batch=8, best=0.25, data={"train": "abc"})
    return Saver(str(run), PlainTensors(step)).save(state, {"run": {"seed": 1}}, figure=figure)


def load(saved: Saved | None) -> PlainTensors:
    assert saved is not None
    found = PlainTensors(999)
    checkpoint.load(saved, found)
    return found


def newest(run: Path) -> Saved:
    saved = checkpoint.latest(str(run))
    assert saved is not None
    return saved


def names(run: Path) -> list[str]:
    return [path.name for path in sorted((run / "checkpoints").glob("step-*"))]


def tensors_of(uri: str, kind: str) -> list[dict]:
    return [safetensors.torch.load_file(path) for path in sorted(Path(uri).glob(f"{kind}-*.safetensors"))]


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    uri = save(tmp_path, 7)
    saved = checkpoint.latest(str(tmp_path))
    assert saved == Saved(uri, TrainState(step=7, seed=1, global_batch=8, best=0.25, data={"train": "abc"}))
    assert load(saved).same_as(PlainTensors(7))
    assert weights(saved).keys() == {"encoder.a", "encoder.b", "head", "encoder.norm.running_mean"}
    assert weights(saved, prefix="encoder.").keys() == {"encoder.a", "encoder.b", "encoder.norm.running_mean"}
    (model,) = tensors_of(uri, "model")
    assert (model["head"] == PlainTensors(7).tensors["head"]["weight"]).all()
    assert len(list(Path(uri).iterdir())) == 3  # weights, optimizer, manifest


@pytest.mark.parametrize("readers", [1, 2, 3])
@pytest.mark.parametrize("writers", [1, 2, 3])
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path, writers: int, readers: int) -> None:
    writing, reading = Meeting(writers), Meeting(readers)
    state = TrainState(step=3, seed=1, global_batch=8)
    written = writing.run(
        lambda rank: checkpoint.save(str(tmp_path), state, PlainTensors(3, rank=rank, meeting=writing), recipe={})
    )
    assert written == [checkpoint.uri_of(str(tmp_path), 3)] * writers
    shares = [set(found) for found in tensors_of(written[0], "model")]
    assert set.union(*shares) == {"encoder.a", "encoder.b", "head", "encoder.norm.running_mean"}
    assert sum(map(len, shares)) == 4  # each by one rank

    def read(rank: int) -> PlainTensors:
        found = PlainTensors(999, rank=rank, meeting=reading)
        checkpoint.load(newest(tmp_path), found)
        return found

    assert all(found.same_as(PlainTensors(3)) for found in reading.run(read))
    assert checkpoint.verify(newest(tmp_path)) == []


def test_the_best_is_the_newest_that_set_a_best_figure(tmp_path: Path) -> None:
    assert checkpoint.best(str(tmp_path)) is None
    for step, figure in ((1, 0.3), (2, 0.9), (3, None)):
        save(tmp_path, step, figure=figure)
    found = checkpoint.best(str(tmp_path))
    assert found is not None
    assert found.state.step == 2
    (tmp_path / "checkpoints" / "best.json").write_text('{"checkpoint": "step-00000001"}')  # it decides nothing
    assert checkpoint.best(str(tmp_path)) == found


def test_pruning_keeps_the_newest_and_the_best_and_never_leaves_none(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, figure=0.9 if step == 2 else None)
    assert len(checkpoint.prune(str(tmp_path), keep=2, dry_run=True)) == 2
    assert len(names(tmp_path)) == 5
    checkpoint.prune(str(tmp_path), keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    for _ in range(3):
        checkpoint.prune(str(tmp_path), keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000005"]
    assert newest(tmp_path).state.step == 5


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 7):
        save(tmp_path, step)
    assert newest(tmp_path).state.step == 100_000_000
    checkpoint.prune(str(tmp_path), keep=2)
    assert names(tmp_path) == ["step-100000000", "step-99999999"]


def test_an_unfinished_checkpoint_does_not_count_as_one_to_keep(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (Path(save(tmp_path, 2)) / "manifest.json").unlink()
    checkpoint.prune(str(tmp_path), keep=1)
    assert load(newest(tmp_path)).same_as(PlainTensors(1))


def test_the_remains_of_killed_saves_go_before_a_process_saves(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    for step in (1, 3):
        (Path(checkpoint.uri_of(str(tmp_path), step)) / "manifest.json").unlink()
    complete = Path(checkpoint.uri_of(str(tmp_path), 2))
    for left in (complete / "model-00003-killed.safetensors", tmp_path / "checkpoints" / "latest.json.12.part"):
        left.touch()
    assert checkpoint.verify(newest(tmp_path)) == ["model-00003-killed.safetensors is not listed in the manifest"]
    Saver(str(tmp_path), PlainTensors(0))
    assert names(tmp_path) == ["step-00000002"]
    assert checkpoint.verify(newest(tmp_path)) == []
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest.json", "step-00000002"]


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.latest(str(tmp_path)) is None
    assert checkpoint.prune(str(tmp_path), keep=1) == []


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    own = PlainTensors(5).shapes()
    others = {
        r"missing \['extra'.*unknown \[\]": own | {"extra": (2,)},
        r"missing \[\], unknown \['head', 'head/exp_avg'\]": {n: s for n, s in own.items() if n != "head"},
        r"encoder.a has shape \(3, 4\), the model's is \(4, 3\)": own | {"encoder.a": (4, 3)},
    }
    for message, shapes in others.items():
        model = PlainTensors(5, shapes=shapes)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(newest(tmp_path), model)
        assert model.same_as(PlainTensors(5, shapes=shapes))


def test_every_rank_fails_where_one_does(tmp_path: Path) -> None:
    meeting = Meeting(2)
    save(tmp_path, 1)
    saved = newest(tmp_path)
    file = next(Path(saved.uri).glob("model-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # of the running mean, the last tensor: one of the two ranks reads it
    file.write_bytes(data)
    found = meeting.run(lambda rank: checkpoint.load(saved, PlainTensors(5, rank=rank, meeting=meeting)))
    messages = sorted(str(error) for error in found)
    assert all(isinstance(error, CheckpointError) for error in found)
    assert "encoder.norm.running_mean is damaged" in messages[0]
    assert "failed on another rank" in messages[1]


@pytest.mark.parametrize("best", [False, True])
def test_a_long_run_holds_a_constant_number_of_checkpoints_files_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: bool
) -> None:
    counts = []

    def look(point: str) -> None:
        counts.append(len(names(tmp_path)))

    for module in (catalogue, saving, staging, uploads):
        monkeypatch.setattr(module, "fault", look)  # at every point where a crash may be planned
    saver = Saver(str(tmp_path), PlainTensors(0), keep=3)
    held = []
    for step in range(1, 101):
        state = TrainState(step=step, seed=1, global_batch=8)
        saver.save(state, {}, figure=0.5 if best and step == 2 else None)
        held.append((len(os.listdir("/proc/self/fd")), threading.active_count(), len(list(tmp_path.rglob("*")))))
    assert len(names(tmp_path)) == 3 + best
    assert max(counts) == 3 + 1 + best  # those to keep, and the one that is being written
    assert len(set(held[10:])) == 1
    assert len(counts) > 1000
