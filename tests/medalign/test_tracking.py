"""The trackers as one, the settings, TensorBoard's files, and the services of the extra `tracking`."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from medalign import storage
from medalign.config import build, loads
from medalign.errors import RecipeError, UserError
from medalign.tracking import Trackers, Tracking, check_installed, open_trackers
from medalign.tracking.event_files import LocalFolder, TensorBoard, run_key
from medalign.tracking.json_lines import JsonLines, read_lines


def events(folder: Path) -> list[Event]:
    """Read event files by the record format: length, its checksum, bytes, their checksum."""
    found = []
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    return [(e.step, v.tag, v.simple_value) for e in events(folder) for v in e.summary.value]


class Recorded:
    """A tracker that remembers what it is told."""

    def __init__(self, error: Exception | None = None):
        self.told: list[tuple] = []
        self.error = error

    def log(self, step, values, *, kind="train"):
        self.told.append((step, dict(values), kind))

    def flush(self):
        self.told.append(("flush",))

    def close(self, *, failed=False):
        self.told.append(("close", failed))
        if self.error:
            raise self.error


def test_every_tracker_is_told_the_same_plain_floats():
    first, second = Recorded(), Recorded()
    with Trackers([first, second]) as trackers:
        trackers.log(1, {"loss": torch.tensor(0.5)})
        trackers.flush()
    assert first.told == second.told == [(1, {"loss": 0.5}, "train"), ("flush",), ("close", False)]
    assert type(first.told[0][1]["loss"]) is float


def test_every_tracker_is_closed_although_one_fails():
    first, second = Recorded(), Recorded(error=OSError("disk full"))
    with pytest.raises(OSError, match="disk full"), Trackers([first, second]):
        pass
    assert first.told == second.told == [("close", False)]


def test_trackers_learn_that_a_run_failed():
    tracker = Recorded()
    with pytest.raises(KeyError), Trackers([tracker]):
        raise KeyError
    assert tracker.told == [("close", True)]


def test_other_ranks_track_nothing():
    with Trackers() as trackers:
        trackers.log(1, {"loss": object()})  # type: ignore[dict-item]
        trackers.flush()
    assert trackers.trackers == ()


def test_a_run_has_metrics_and_event_files(tmp_path, capsys):
    uri = str(tmp_path / "run")
    with open_trackers(Tracking(log_every=2), uri, total_steps=4) as trackers:
        for step in range(1, 5):
            trackers.log(step, {"loss": 1 / step})
        trackers.log(4, {"loss": 0.5}, kind="validation")
    assert [(line["step"], line["kind"], line["loss"]) for line in read_lines(uri)] == [
        *((step, "train", 1 / step) for step in range(1, 5)),
        (4, "validation", 0.5),
    ]
    assert scalars(tmp_path / "run" / "tensorboard") == [
        *((step, "train/loss", pytest.approx(1 / step)) for step in range(1, 5)),
        (4, "validation/loss", 0.5),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 2/4", "step 4/4", "step 4/4"]


def test_without_tensorboard_and_console_only_metrics_are_written(tmp_path, capsys):
    with open_trackers(Tracking(tensorboard=False), str(tmp_path), total_steps=1, console=False) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert capsys.readouterr().out == ""


def test_a_resumed_run_hides_later_events_of_the_former_attempt(tmp_path):
    for done, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        board = TensorBoard(str(tmp_path), step=done)
        for step in steps:
            board.log(step, {"loss": float(step)})
        board.close()
    starts = [e.step for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert 3 in starts, "a session that starts at step 3 makes TensorBoard forget the former step 3"
    assert len(scalars(tmp_path / "tensorboard")) == 5


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server in a thread, with one bucket; the address and false credentials are in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="runs")
    yield "s3://runs"
    server.stop()


def test_a_run_in_a_bucket_has_its_metrics_and_event_files_there(bucket, tmp_path):
    uri = f"{bucket}/one"
    trackers = Trackers([JsonLines.resume(uri, 0), TensorBoard(uri)])
    trackers.log(1, {"loss": 2.0})
    folder = trackers.trackers[1]._folder.path
    assert folder.is_dir()
    trackers.close()
    assert not folder.exists(), "the temporary folder is gone"
    assert read_lines(uri) == [{"step": 1, "kind": "train", "loss": 2.0}]
    (name,) = [file for file in storage.list_files(uri) if "tensorboard/" in file]
    (tmp_path / "events.copy").write_bytes(storage.read_bytes(name))
    assert scalars(tmp_path) == [(1, "train/loss", 2.0)]


def test_a_local_runs_folder_is_its_own(tmp_path):
    folder = LocalFolder(f"file://{tmp_path}", "wandb")
    folder.close()
    assert folder.path == tmp_path / "wandb"
    assert folder.path.is_dir()


def test_a_run_keeps_its_key_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_key("run") == run_key(f"{tmp_path}/run/") == run_key(f"file://{tmp_path}/run")
    assert run_key("run") != run_key("run2")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("log_every: 0", "log_every must be >= 1, got 0."),
        ("wandb: ''", "wandb must not be empty"),
        ("mlflow: true", "must be text"),
        ("tensorboard: off", "must be true or false"),
        ("tensor_board: true", "did you mean tensorboard?"),
    ],
)
def test_bad_settings_are_refused(text, cause):
    with pytest.raises(RecipeError) as caught:
        build(Tracking, loads(text, source="r"))
    assert str(caught.value).startswith("r:1: ")
    assert cause in str(caught.value)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_names_the_extra_that_brings_it(name, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == name else find(n, *rest))
    settings = Tracking(**{name: "https://user:password@host"})
    with pytest.raises(UserError) as caught:
        open_trackers(settings, str(tmp_path / "run"), total_steps=1)
    assert f"tracking.{name}: the package {name} is not installed; pip install 'medalign[tracking]'" in str(
        caught.value
    )
    assert "password" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_the_settings_import_no_tracker_and_no_framework():
    code = "import sys, medalign.tracking as t; t.Tracking(); print(sorted({%s} & set(sys.modules)))"
    names = ", ".join(repr(n) for n in ["torch", "tensorboardX", "mlflow", "wandb", "rich", "pyarrow", "ray"])
    done = subprocess.run([sys.executable, "-c", code % names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlflow_keeps_one_run_per_uri_across_attempts(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = Tracking(tensorboard=False, mlflow=f"file://{tmp_path}/store")
    check_installed(settings)
    uri = str(tmp_path / "run")
    for done, steps in ((0, (1, 2)), (2, (3,))):
        opened = open_trackers(settings, uri, total_steps=3, step=done, recipe={"a": {"b": 1}}, console=False)
        with opened as trackers:
            for step in steps:
                trackers.log(step, {"loss": 1 / step})
    client = mlflow.MlflowClient(tracking_uri=settings.mlflow)
    (run,) = client.search_runs([client.get_experiment_by_name("medalign").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert (run.data.params, run.info.status, run.info.run_name) == ({"a.b": "1"}, "FINISHED", "run")
    with pytest.raises(ZeroDivisionError), open_trackers(settings, uri, total_steps=3, step=3, console=False):
        raise ZeroDivisionError
    assert client.get_run(run.info.run_id).info.status == "FAILED"


def test_an_mlflow_store_that_vanishes_is_a_warning(tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = Tracking(tensorboard=False, mlflow=f"file://{tmp_path}/store")
    with open_trackers(settings, str(tmp_path / "run"), total_steps=2, console=False) as trackers:
        shutil.rmtree(tmp_path / "store")
        trackers.log(1, {"loss": 1.0})
    assert "MLflow lacks a part of this run" in caplog.text
    assert len(read_lines(str(tmp_path / "run"))) == 1


def test_an_mlflow_store_that_cannot_be_opened_is_the_users_error(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    settings = Tracking(tensorboard=False, mlflow="nonsense://user:password@host")
    with pytest.raises(UserError, match="tracking.mlflow: the server or store cannot be opened") as caught:
        open_trackers(settings, str(tmp_path / "run"), total_steps=1, console=False)
    assert "password" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_wandb_offline_keeps_its_files_in_the_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra `tracking` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings, uri = Tracking(tensorboard=False, wandb="project"), str(tmp_path / "run")
    with open_trackers(settings, uri, total_steps=2, recipe={"a": 1}, console=False) as trackers:
        trackers.log(1, {"loss": 1.0})
        trackers.log(1, {"loss": 2.0}, kind="validation")
        trackers.log(2, {"loss": 0.5})
    (record,) = (tmp_path / "run" / "wandb").rglob(f"run-{run_key(uri)}.wandb")
    content = record.read_bytes()
    assert b"train/loss" in content
    assert b"validation/loss" in content
