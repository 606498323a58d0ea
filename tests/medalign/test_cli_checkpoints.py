"""`medalign checkpoint`: one line per fact, and exit codes that scripts can use."""

import json
from pathlib import Path

import pytest
from plain_tensors import PlainTensors

from medalign import checkpoint
from medalign.checkpoint import Saver, TrainState
from medalign.cli import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with four checkpoints, the second of them the best."""
    (tmp_path / "recipe.yaml").write_text("run: {uri: here, seed: 1}\n")
    for step, figure in ((10, None), (20, 0.75), (30, None), (40, None)):
        state = TrainState(step=step, seed=1, global_batch=8)
        Saver(str(tmp_path), PlainTensors(step)).save(state, {"train": {"steps": 40}}, figure=figure)
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    """Run the program; return (exit code, lines of stdout, stderr)."""

    def call(*words: object) -> tuple[int, list[str], str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in ("checkpoint", *words)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out.splitlines(), err

    return call


def damage(run: Path, step: int) -> None:
    (file,) = Path(checkpoint.uri_of(str(run), step)).glob("model-*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 4
    file.write_bytes(data)


def test_list_has_a_line_for_each(run: Path, said) -> None:
    (Path(checkpoint.uri_of(str(run), 30)) / "manifest.json").unlink()
    code, lines, _ = said("list", run)
    assert code == 0
    assert lines[0].split()[:3] == ["step-00000010", "step", "10"]
    assert lines[1].endswith("figure 0.75  best")
    assert lines[2].startswith("step-00000030  unfinished")
    assert lines[3].endswith("newest")
    assert len(lines) == 4


def test_list_of_a_run_without_a_complete_one_is_1_and_of_no_run_is_2(tmp_path: Path, said) -> None:
    code, _, err = said("list", tmp_path / "nowhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "no run here" in err
    (tmp_path / "recipe.yaml").touch()
    assert said("list", tmp_path)[:2] == (1, [])


def test_verify_names_what_is_damaged(run: Path, said) -> None:
    assert said("verify", run)[:2] == (0, [f"step-000000{step}  intact" for step in (10, 20, 30, 40)])
    damage(run, 30)
    code, lines, err = said("verify", run)
    assert code == 1
    assert [line.endswith("intact") for line in lines] == [True, True, False, True]
    assert "another hash than the manifest's: encoder.norm.running_mean" in lines[2]
    assert "delete the damaged one's folder" in err
    assert said("verify", run, "--step", 40)[0] == 0
    assert said("verify", run, "--step", 41)[0] == 2


def test_verify_tells_of_a_damaged_manifest(run: Path, said) -> None:
    at = Path(checkpoint.uri_of(str(run), 40)) / "manifest.json"
    at.write_text(json.dumps(json.loads(at.read_text()) | {"figure": 0.99}))
    code, lines, _ = said("verify", run, "--step", 40)
    assert code == 1
    assert "damaged, its hash is not the one that was saved" in lines[0]
    code, lines, _ = said("list", run)
    assert (code, len(lines)) == (0, 4)
    assert "damaged" in lines[3]
    assert lines[1].endswith("best")


def test_diff_compares_the_two_newest_or_those_that_are_named(run: Path, said, tmp_path: Path) -> None:
    code, lines, _ = said("diff", run)
    assert code == 1
    assert "state.step: 30 -> 40" in lines
    assert "tensor head: other values" in lines
    assert lines[-1] == "0 tensors equal, 7 with other values"
    other = tmp_path / "other"
    state = TrainState(step=40, seed=1, global_batch=8)
    Saver(str(other), PlainTensors(40)).save(state, {"train": {"steps": 40}})
    code, lines, _ = said("diff", run, "--other", other)
    assert (code, lines[-1]) == (0, "7 tensors equal, 0 with other values")
    assert said("diff", run, "--first", 10, "--second", 10)[0] == 2


def test_prune_deletes_the_old_ones_only_and_says_so(run: Path, said) -> None:
    code, lines, _ = said("prune", run, "--keep", 1, "--dry-run")
    assert code == 0
    assert lines == [
        "step-00000010  would be deleted",
        "step-00000030  would be deleted",
        "2 complete checkpoints stay",
    ]
    assert len(checkpoint.complete(str(run))) == 4
    assert said("prune", run, "--keep", 1)[1][-1] == "2 complete checkpoints stay"
    assert [uri[-2:] for uri in checkpoint.complete(str(run))] == ["20", "40"]
    assert said("prune", run, "--keep", 0)[0] == 2
    assert said("prune", run)[0] == 2
