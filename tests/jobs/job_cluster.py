"""A Ray cluster of this machine with its own token, ports and folder, for the tests that submit to one."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that came of it."""
    head = psutil.Process(pid)
    return [*head.children(recursive=True), head]


@pytest.fixture(scope="session")
def cluster():
    """The environment in which `ray job submit` and `medalign submit` reach it; HEAD_PID is its first process."""
    folder, dashboard = tempfile.mkdtemp(prefix="ray-jobs-", dir="/tmp"), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment |= {
        "PATH": f"{BIN}:{environment['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-this-test-only-0123456789",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "OMP_NUM_THREADS": "1",
    }
    start = [BIN / "ray", "start", "--head", "--block", "--num-cpus=4", f"--port={free_port()}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=300000000"]
    # without a port of its own the agent of a second cluster on a machine stays deaf, and no job can be submitted
    start += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    log = open(Path(folder, "start.log"), "w")
    head = subprocess.Popen(
        [*start, "--disable-usage-stats", f"--temp-dir={folder}"], env=environment, stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", dashboard)):
            assert head.poll() is None, Path(folder, "start.log").read_text()
            assert time.monotonic() < deadline, Path(folder, "start.log").read_text()
            time.sleep(0.5)
        yield {**environment, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}", "HEAD_PID": str(head.pid)}
    finally:
        ours = family(head.pid)
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=30)
        head.wait(timeout=30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A clean checkout: the files that git has, or would take."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder
