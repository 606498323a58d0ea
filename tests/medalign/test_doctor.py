"""The doctor: each finding by hand-made machines, and the exit code."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medalign.cli import main
from medalign.doctor import Finding
from medalign.doctor.machine import disk, shared_memory, threads
from medalign.doctor.object_storage import round_trip
from medalign.doctor.ray_exposure import authentication, dashboards, reachable
from medalign.doctor.versions import accelerator, packages, python


def test_an_old_python_is_broken() -> None:
    assert python((3, 10, 4)).state == "broken"
    assert python((3, 11, 0)).state == "fine"


def test_packages_are_compared_with_what_is_required() -> None:
    found = packages(
        ["torch>=2.4", "ray[data]>=2.60", "pyarrow>=20", "absent>=1", "only-extra>=1; extra == 'x'"],
        {"torch": "2.13.0+cpu", "ray": "2.59.0", "pyarrow": "26.0.1"},
    )
    assert found[0] == Finding(name="packages", state="fine", seen="torch 2.13.0+cpu, pyarrow 26.0.1")
    assert [(each.name, each.state) for each in found[1:]] == [("ray", "broken"), ("absent", "broken")]
    assert found[1].fix == "pip install 'ray>=2.60'"


def test_this_environment_fits_its_own_requirements() -> None:
    assert [each.state for each in packages()] == ["fine"]


@pytest.mark.parametrize(
    ("has_driver", "cuda", "devices", "state"),
    [(False, "", 0, "fine"), (True, "", 0, "broken"), (True, "12.8", 0, "broken"), (True, "12.8", 2, "fine")],
)
def test_a_gpu_that_pytorch_does_not_see_is_broken(
    tmp_path: Path, has_driver: bool, cuda: str, devices: int, state: str
) -> None:
    driver = tmp_path / "version"
    if has_driver:
        driver.write_text("NVRM")
    assert accelerator(driver=driver, cuda=cuda, devices=devices).state == state


@pytest.mark.parametrize(("size", "state"), [(8e9, "fine"), (2e9, "note"), (64e6, "broken")])
def test_shared_memory_must_hold_the_object_store(size: float, state: str) -> None:
    found = shared_memory(size=int(size), wanted=7.5e9)
    assert found.state == state
    assert (state == "fine") or "--shm-size=8g" in found.fix


@pytest.mark.parametrize(("free", "state"), [(50e9, "fine"), (2e9, "note"), (0.1e9, "broken")])
def test_room_on_disks(free: float, state: str) -> None:
    found = disk(free={"/tmp": int(60e9), "/runs": int(free)})
    assert found.state == state
    assert (state == "fine") or found.fix.startswith("make room at /runs")


def test_more_threads_than_cores_are_broken() -> None:
    assert threads({"OMP_NUM_THREADS": "16"}, cores=4).state == "broken"
    assert threads({"OMP_NUM_THREADS": "1"}, cores=4).state == "fine"
    assert threads({}, cores=4).state == "fine"


@pytest.mark.parametrize(
    ("mode", "has_token", "state"),
    [("disabled", True, "broken"), ("token", False, "broken"), ("token", True, "fine"), ("", False, "note")],
)
def test_ray_must_ask_for_a_token(mode: str, has_token: bool, state: str) -> None:
    assert authentication({"RAY_AUTH_MODE": mode}, has_token=has_token).state == state


def test_a_dashboard_that_everybody_reaches_is_broken() -> None:
    command = "python .../dashboard/dashboard.py --host={} --port=8265 --port-retries=0"
    states = {
        (host, mode): dashboards(
            [command.format(host), "python unrelated --host=0.0.0.0 --port=1"], {"RAY_AUTH_MODE": mode}
        )
        for host in ("127.0.0.1", "0.0.0.0", "10.1.2.3")
        for mode in ("", "token")
    }
    assert {key: [each.state for each in found] for key, found in states.items()} == {
        ("127.0.0.1", ""): ["fine"],
        ("127.0.0.1", "token"): ["fine"],
        ("0.0.0.0", ""): ["broken"],
        ("0.0.0.0", "token"): ["note"],
        ("10.1.2.3", ""): ["broken"],
        ("10.1.2.3", "token"): ["note"],
    }
    assert dashboards([], {})[0].seen == "none runs here"


@pytest.fixture
def answers() -> Iterator[tuple[str, list[int]]]:
    """Return a server's address and the status codes it answers with, the last again and again."""
    codes = [200]

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(codes[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", codes
    server.shutdown()
    server.server_close()


def test_a_cluster_is_asked_whether_it_wants_a_token(answers: tuple[str, list[int]]) -> None:
    address, codes = answers
    assert reachable(address).state == "note"  # open, but on this machine alone
    codes.append(401)
    assert reachable(address).state == "fine"
    assert reachable("http://127.0.0.1:9").state == "broken"
    assert reachable("ray://somewhere").state == "broken"


def test_a_round_trip_leaves_nothing_behind(tmp_path: Path) -> None:
    found = round_trip(str(tmp_path))
    assert [(each.name, each.state) for each in found] == [("storage", "fine")]
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = round_trip(str(tmp_path / "file" / "below"))
    assert [each.state for each in found] == ["broken"]
    assert found[0].fix


def test_the_program_exits_1_where_something_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path), "--json"])
    found = {each["name"]: each["state"] for each in json.loads(capsys.readouterr().out)}
    assert ended.value.code == 1
    assert (found["ray authentication"], found["storage"]) == ("broken", "fine")
