"""No pickle on any load path: none in the sources, and planted ones do not run."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_tensors import PlainTensors
from trained_run import write_run

import medalign
import medalign_core
from medalign import checkpoint
from medalign.checkpoint import open_encoder
from medalign.errors import CheckpointError, MedAlignError, RunError, UserError


class Bomb:
    """What, unpickled, leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self._mark,)


@pytest.fixture
def planted(tmp_path: Path):
    """Write pickles that leave a mark when they are read; check at the end that none was."""
    mark = tmp_path / "mark"

    def plant(*places: Path) -> None:
        for at in places:
            at.parent.mkdir(parents=True, exist_ok=True)
            if at.suffix == ".npy":
                np.save(at, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
            elif at.suffix == ".npz":
                values = np.array([Bomb(mark)], dtype=object)
                np.savez(at, first=values, second=values, matching=values, affinity=values)
            elif at.suffix in (".pt", ".bin", ".ckpt"):
                torch.save({"encoder.a": Bomb(mark)}, at)
            else:
                at.write_bytes(pickle.dumps(Bomb(mark)))

    yield plant
    assert not mark.exists()


def test_the_planted_pickles_would_leave_their_mark(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    assert not (tmp_path / "mark").exists()
    pickle.loads(bomb)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["model", "optimizer", "manifest"])
def test_a_pickle_in_the_place_of_a_checkpoint_s_file_is_refused(tmp_path: Path, planted, kind: str) -> None:
    state = checkpoint.TrainState(step=1, seed=0, global_batch=1)
    uri = checkpoint.save(str(tmp_path / "run"), state, PlainTensors(1), recipe={})
    (at,) = Path(uri).glob(f"{kind}*")
    planted(at, *(Path(uri) / name for name in ("mp_rank_00_model_states.pt", "pytorch_model.bin", "latest")))
    with pytest.raises(CheckpointError):
        checkpoint.load(checkpoint.Saved(uri, state), PlainTensors(2))
    assert checkpoint.verify(checkpoint.Saved(uri, state))


def test_pickles_beside_a_checkpoint_are_not_touched(tmp_path: Path, planted) -> None:
    run = tmp_path / "run"
    write_run(run, seed=1)
    folder = run / "checkpoints" / "step-00000010"
    planted(run / "tuner.pkl", run / "checkpoints" / "latest", folder / "optimizer.pt", folder / "rng.pkl")
    open_encoder(str(run))
    checkpoint.Saver(str(run), PlainTensors(1)).check_room(1)


def test_a_recipe_that_would_build_an_object_is_refused(tmp_path: Path, planted) -> None:
    run = tmp_path / "run"
    write_run(run, seed=1)
    (run / "recipe.yaml").write_text(f"run: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'mark'}]\n")
    with pytest.raises(Exception, match="could not determine a constructor|python/object"):
        open_encoder(str(run))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_transformers_directory_with_a_pickle_for_weights_is_refused(tmp_path: Path, planted, name: str) -> None:
    from transformers import ResNetConfig

    at = tmp_path / "model"
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic").save_pretrained(at)
    planted(at / name, at / "training_args.bin")
    with pytest.raises(UserError, match="not a transformers directory that can be opened"):
        open_encoder(str(at))


def test_a_packaged_set_of_objects_is_refused(tmp_path: Path, planted) -> None:
    from medalign.data.prepare import prepare

    planted(tmp_path / "set.npz")
    with pytest.raises(MedAlignError):
        prepare(str(tmp_path / "set.npz"), format="medmnist", out=str(tmp_path / "corpus"))


def test_a_drawn_matching_of_objects_is_refused(tmp_path: Path, planted) -> None:
    from medalign.reports.page import report

    run = tmp_path / "run"
    write_run(run, seed=1)
    planted(run / "figures" / "matching.npz")
    with pytest.raises(RunError, match="allow_pickle=False"):
        report(str(run))


def test_nothing_in_the_sources_loads_a_pickle() -> None:
    roots = [Path(medalign.__file__).parent, Path(medalign_core.__file__).parent]
    files = [path for root in roots for path in root.rglob("*.py")]
    assert len(files) > 80
    found = [f"{path}:{line}" for path in files for line in _pickle_loads(ast.parse(path.read_text()))]
    assert found == []


def test_the_search_for_pickles_finds_them() -> None:
    bad = [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x)",
        "yaml.unsafe_load(x)",
        "joblib.load(x)",
        "pd.read_pickle(x)",
    ]
    assert [len(list(_pickle_loads(ast.parse(text)))) for text in bad] == [1] * len(bad)
    good = ["np.load(x)", "torch.load(x, weights_only=True)", "yaml.safe_load(x)", "checkpoint.load(x, y)"]
    assert [list(_pickle_loads(ast.parse(text))) for text in good] == [[]] * len(good)


def _pickle_loads(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr) and _loads_pickle(node)]


def _loads_pickle(node: ast.stmt | ast.expr) -> bool:
    modules = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in modules for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in modules
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return (
        (called == "torch.load" and given.get("weights_only") != "True")
        or given.get("allow_pickle", "False") != "False"
        or called in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load"}
        or called.endswith("read_pickle")
    )
