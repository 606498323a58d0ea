"""The same command goes on where a run stopped, and refuses what would make it another run, unless that is allowed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from striped_corpus import write_corpus

from medalign import checkpoint, train
from medalign.checkpoint import weights
from medalign.cli import main
from medalign.errors import CheckpointError, DiskFullError, RunError

RECIPE = {
    "data": {"image_size": 32, "shuffle_rows": 16},
    "model": {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "objective": {"type": "info_nce", "projection_size": 16},
    "train": {"micro_batch": 8, "global_batch": 16, "steps": 3, "checkpoint_every": 1, "keep_last": 3, "workers": 0},
    "tracking": {"log_every": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a changed copy of it, a recipe, and a finished run of 3 steps."""
    at = tmp_path_factory.mktemp("place")
    write_corpus(at / "stripes", {"train": 40})
    write_corpus(at / "longer", {"train": 48})
    recipe = {**RECIPE, "run": {"seed": 4, "uri": "unset"}, "data": {**RECIPE["data"], "corpus": str(at / "stripes")}}
    (at / "small.yaml").write_text(yaml.safe_dump(recipe))
    train(str(at / "small.yaml"), [f"run.uri={at / 'run'}"])
    return at


@pytest.fixture
def stopped(place: Path, tmp_path: Path) -> Path:
    """The run, as it was after 2 steps."""
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    shutil.rmtree(checkpoint.uri_of(str(run), 3))
    return run


def trained(run: Path) -> dict[str, np.ndarray]:
    saved = checkpoint.latest(str(run))
    assert saved is not None
    assert saved.state.step == 3
    return {name: value.numpy() for name, value in weights(saved).items()}


def test_the_same_command_goes_on_to_the_same_bits(place: Path, stopped: Path) -> None:
    assert train(str(place / "small.yaml"), [f"run.uri={stopped}"]).step == 3
    for name, value in trained(place / "run").items():
        assert np.array_equal(trained(stopped)[name], value), name


def test_a_corpus_that_has_moved_is_the_same_corpus(place: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "stripes", tmp_path / "moved")
    train(str(place / "small.yaml"), [f"run.uri={stopped}", f"data.corpus={tmp_path / 'moved'}"])
    assert all(np.array_equal(trained(stopped)[name], value) for name, value in trained(place / "run").items())


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("run.seed=5", "run.seed = 4, now it is 5 (since step 2)"),
        ("train.global_batch=8", "train.global_batch = 16, now it is 8 (since step 2)"),
        ("data.corpus={place}/longer", "data.corpus (split train) = sha256 "),
    ],
)
def test_another_seed_batch_or_corpus_is_refused_unless_it_is_allowed(
    place: Path, stopped: Path, capsys: pytest.CaptureFixture[str], override: str, difference: str
) -> None:
    words = ["train", str(place / "small.yaml"), f"run.uri={stopped}", override.format(place=place)]
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main(words)
    _, err = capsys.readouterr()
    assert ended.value.code == 2
    assert err.count("\n") == 1
    assert difference in err
    assert "--allow-change" in err
    assert {path: path.read_bytes() for path in before} == before  # nothing was touched
    with pytest.raises(SystemExit) as ended:
        main([*words, "--allow-change"])
    _, err = capsys.readouterr()
    assert ended.value.code == 0
    assert f"note: {stopped}: goes on though it was started with {difference}"[:60] in err
    (line,) = (stopped / "changes.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2
    assert checkpoint.diff(*(checkpoint.Saved(uri, None) for uri in checkpoint.complete(str(stopped))[-2:])).facts
    main_again = train(str(place / "small.yaml"), [f"run.uri={stopped}", override.format(place=place)])
    assert main_again.step == 3  # what was allowed once is what the run is now


def test_a_recipe_that_was_edited_by_hand_hides_nothing(place: Path, stopped: Path) -> None:
    text = (stopped / "recipe.yaml").read_text()
    assert "seed: 4" in text
    (stopped / "recipe.yaml").write_text(text.replace("seed: 4", "seed: 5"))
    with pytest.raises(RunError, match=r"run.seed = 4, now it is 5 \(since step 2\)"):
        train(str(place / "small.yaml"), [f"run.uri={stopped}", "run.seed=5"])


def test_a_damaged_newest_checkpoint_is_told_and_never_skipped_in_silence(place: Path, stopped: Path) -> None:
    (file,) = Path(checkpoint.uri_of(str(stopped), 2)).glob("optimizer-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged, its bytes are not those that were saved"):
        train(str(place / "small.yaml"), [f"run.uri={stopped}"])
    shutil.rmtree(file.parent)
    assert train(str(place / "small.yaml"), [f"run.uri={stopped}"]).step == 3
    assert all(np.array_equal(trained(stopped)[name], value) for name, value in trained(place / "run").items())


def test_a_disk_without_room_is_told_before_the_first_step(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(place / "small.yaml"), f"run.uri={tmp_path / 'new'}"])
    assert ended.value.code == DiskFullError.exit_code == 74
    assert "3 checkpoints of" in capsys.readouterr().err
    assert checkpoint.latest(str(tmp_path / "new")) is None
    assert not list((tmp_path / "new").rglob("step-*"))
