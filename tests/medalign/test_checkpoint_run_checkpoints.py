"""A run's checkpoints: complete or absent under a kill at any moment, never pruned to none, verified, no pickle."""

import ast
import json
import os
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
from plain_tensors import PlainTensors

import medalign
import medalign_core
from medalign import checkpoint, storage
from medalign.checkpoint import Saved, TrainState
from medalign.checkpoint.run_checkpoints import weights
from medalign.errors import CheckpointError

PLACES = 5  # files that one rank's save brings into place: model, optimizer, part, manifest, pointer


def save(run: Path, step: int, *, source: PlainTensors | None = None) -> str:
    return checkpoint.save(
        str(run),
        TrainState(step=step, seed=1, global_batch=8, best=0.25),
        source or PlainTensors(step),
        recipe={"run": {"seed": 1}},
        rank=0,
        world=1,
        barrier=lambda: None,
    )


def load(saved: Saved | None) -> PlainTensors:
    assert saved is not None
    found = PlainTensors(999)
    checkpoint.load(saved, found)
    return found


def names(run: Path) -> list[str]:
    return [path.name for path in sorted((run / "checkpoints").glob("step-*"))]


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    uri = save(tmp_path, 7)
    saved = checkpoint.latest(str(tmp_path))
    assert saved == Saved(uri, TrainState(step=7, seed=1, global_batch=8, skipped=0, best=0.25))
    assert load(saved).same_as(PlainTensors(7))
    assert weights(saved).keys() == {"encoder.a", "encoder.b", "head", "encoder.norm.running_mean"}
    model = safetensors.torch.load_file(Path(uri) / "model-00000.safetensors")
    assert (model["head"] == PlainTensors(7).tensors["head"]["weight"]).all()
    assert json.loads((Path(uri) / "manifest.json").read_bytes())["recipe"] == {"run": {"seed": 1}}


def test_each_rank_writes_its_share_and_any_number_of_ranks_reads_it(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=30)
    state = TrainState(step=3, seed=1, global_batch=8)

    def rank(number: int) -> None:
        keys = {"recipe": {}, "rank": number, "world": 2, "barrier": lambda: meeting.wait() and None}
        checkpoint.save(str(tmp_path), state, PlainTensors(3), **keys)

    ranks = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(30)
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    parts = [safetensors.torch.load_file(f"{saved.uri}/model-0000{r}.safetensors").keys() for r in range(2)]
    assert parts == [{"encoder.a", "head", "encoder.norm.running_mean"}, {"encoder.b"}]
    assert load(saved).same_as(PlainTensors(3))
    assert checkpoint.verify(saved) == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("place", range(PLACES))
def test_a_kill_at_any_moment_of_a_save_leaves_a_complete_checkpoint_as_latest(
    tmp_path: Path, place: int, moment: str
) -> None:
    save(tmp_path, 1)
    child = os.fork()
    if child == 0:  # dies like a killed process: no cleanup runs
        _die_at(place, moment)
        save(tmp_path, 2)
        os._exit(3)
    assert _exit_code(child) == 9
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    is_committed = place > 3 or (place == 3 and moment == "after")
    assert saved.state.step == (2 if is_committed else 1)
    assert checkpoint.verify(saved) == []
    assert load(saved).same_as(PlainTensors(saved.state.step))
    save(tmp_path, 2)  # the next attempt reaches the same step
    again = checkpoint.latest(str(tmp_path))
    assert again is not None
    assert (again.state.step, checkpoint.verify(again)) == (2, [])
    assert not list((tmp_path / "checkpoints" / "step-00000002").glob("*.part"))


def _die_at(place: int, moment: str) -> None:
    """Make this process vanish before or after the place-th file appears under its name."""
    replace, seen = os.replace, iter(range(100))

    def dying(source: object, target: object) -> None:
        here = next(seen) == place
        if here and moment == "before":
            os._exit(9)
        replace(source, target)
        if here:
            os._exit(9)

    os.replace = dying  # type: ignore[assignment]


def _exit_code(child: int) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    raise AssertionError("the child hangs")


def test_pruning_keeps_the_newest_and_the_best_and_never_leaves_none(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step)
    checkpoint.mark_best(str(tmp_path), checkpoint.uri_of(str(tmp_path), 2), 0.9)
    checkpoint.prune(str(tmp_path), keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    found = checkpoint.best(str(tmp_path))
    assert found is not None
    assert found.state.step == 2
    for _ in range(3):
        checkpoint.prune(str(tmp_path), keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000005"]
    newest = checkpoint.latest(str(tmp_path))
    assert newest is not None
    assert newest.state.step == 5


def test_an_unfinished_checkpoint_does_not_count_as_one_to_keep(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (Path(checkpoint.uri_of(str(tmp_path), 2)) / "manifest.json").unlink()
    checkpoint.prune(str(tmp_path), keep=1)
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    assert saved.state.step == 1
    assert load(saved).same_as(PlainTensors(1))


def test_the_remains_of_a_killed_save_go_once_a_newer_one_is_complete(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (Path(checkpoint.uri_of(str(tmp_path), 1)) / "manifest.json").unlink()
    save(tmp_path, 3)
    (Path(checkpoint.uri_of(str(tmp_path), 3)) / "manifest.json").unlink()  # may still be being written
    checkpoint.prune(str(tmp_path), keep=5)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.latest(str(tmp_path)) is None
    assert checkpoint.best(str(tmp_path)) is None
    checkpoint.prune(str(tmp_path), keep=1)


@pytest.mark.parametrize("name", ["model-00000.safetensors", "optimizer-00000.safetensors"])
def test_verify_finds_a_flipped_bit_and_a_missing_file(tmp_path: Path, name: str) -> None:
    uri = save(tmp_path, 1)
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    at = Path(uri) / name
    data = bytearray(at.read_bytes())
    data[-3] ^= 1
    at.write_bytes(bytes(data))
    assert checkpoint.verify(saved) == [f"{name} has another hash than the manifest's"]
    at.unlink()
    assert checkpoint.verify(saved) == [f"{name} is missing"]


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    saved = checkpoint.latest(str(tmp_path))
    assert saved is not None
    own = PlainTensors(5).shapes()
    others = {
        r"missing \['extra'.*unknown \[\]": own | {"extra": (2,)},
        r"missing \[\], unknown \['head', 'head/exp_avg'\]": {n: s for n, s in own.items() if n != "head"},
        r"encoder.a has shape \(3, 4\), the model's is \(4, 3\)": own | {"encoder.a": (4, 3)},
    }
    for message, shapes in others.items():
        model = PlainTensors(5, shapes=shapes)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(saved, model)
        assert model.same_as(PlainTensors(5, shapes=shapes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "schema None"),
        ('{"schema": "medalign.checkpoint/99"}', "schema 'medalign.checkpoint/99', this release reads"),
        ('{"schema": "medalign.checkpoint/1"}', "no state that can be read"),
        ('{"schema": "medalign.checkpoint/1", "state": {"step": 1, "epoch": 2}}', "no state that can be read"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, text: str, message: str) -> None:
    uri = save(tmp_path, 1)
    storage.write_bytes(storage.join(uri, "manifest.json"), text.encode())
    with pytest.raises(CheckpointError, match=message):
        checkpoint.latest(str(tmp_path))


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
