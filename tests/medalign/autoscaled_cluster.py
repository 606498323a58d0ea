"""A Ray cluster of this machine that grows and shrinks: Ray's autoscaler starts and ends raylets as if they were nodes.

The provider is Ray's own fake one, with a shelf that can be emptied: while a file exists there is no capacity for nodes
of the type `train`, as on a spot market. Nothing of Ray's installation is written to, and only processes that came of
the head are ended.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

HERE = Path(__file__).parent
EMPTY_SHELF = "MEDALIGN_TEST_EMPTY_SHELF"
NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"


class SpotMarket(FakeMultiNodeProvider):
    """Starts raylets, unless there is no capacity."""

    def create_node_with_resources_and_labels(self, node_config: Any, tags: dict[str, str], *words: Any) -> None:
        """Start a node."""
        if tags[TAG_RAY_USER_NODE_TYPE] == "train" and Path(os.environ[EMPTY_SHELF]).exists():
            raise RuntimeError("no spot capacity")
        super().create_node_with_resources_and_labels(node_config, tags, *words)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class AutoscaledCluster:
    """A head without CPUs, and node types that may be started.

    Args:
        types: name -> (CPUs of a node, most nodes).
        idle_minutes: after which an idle node is ended.
    """

    def __init__(self, types: dict[str, tuple[int, int]], *, idle_minutes: float = 0.15) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-grow-", dir="/tmp"))
        self.shelf = self._folder / "no-capacity"
        self.port = free_port()
        self.address = f"{_own_address()}:{self.port}"
        config = self._folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump(self._config(types, idle_minutes)))
        self._log = open(self._folder / "start.log", "w")
        self.head = subprocess.Popen(self._command(config), env=self._environment(), stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex((_own_address(), self.port)):
            assert self.head.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.3)

    def log(self) -> str:
        """Return what the start has said."""
        return (self._folder / "start.log").read_text()

    def monitor_log(self) -> str:
        """Return what the autoscaler has said."""
        return "".join(path.read_text() for path in self._folder.glob("session_*/logs/monitor*"))

    def raylets(self) -> dict[str, psutil.Process]:
        """Return the raylet of each node that was started, by Ray's id of the node."""
        found = {}
        for process in psutil.Process(self.head.pid).children(recursive=True):
            try:
                if process.name() == "raylet" and (node := process.environ().get(NODE_ID)) not in (
                    None,
                    FAKE_HEAD_NODE_ID,
                ):
                    found[node] = process
            except psutil.Error:
                continue
        return found

    def kill(self, node: str) -> None:
        """End a node at once, with all that runs on it: what a spot market does without a notice."""
        raylet = self.raylets()[node]
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()

    def close(self) -> None:
        """End all that came of the head, and nothing else."""
        head = psutil.Process(self.head.pid)
        family = [*head.children(recursive=True), head]
        family += [p for p in psutil.process_iter() if p not in family and self._is_ours(p)]
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=30)
        self.head.wait(timeout=30)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ours(self, process: psutil.Process) -> bool:
        """Tell whether a process, whose parent has ended before it, was started in the cluster's own folder."""
        try:
            return any(str(self._folder) in word for word in process.cmdline())
        except psutil.Error:
            return False

    def _config(self, types: dict[str, tuple[int, int]], idle_minutes: float) -> dict[str, Any]:
        nodes: dict[str, Any] = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
        for name, (cpus, most) in types.items():
            resources = {"CPU": cpus, "object_store_memory": 100_000_000}
            nodes[name] = {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}
        empty_lists = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
        return {
            "cluster_name": "grows",
            "max_workers": sum(most for _, most in types.values()),
            "idle_timeout_minutes": idle_minutes,
            "upscaling_speed": 10.0,
            "provider": {
                "type": "external",
                "module": "autoscaled_cluster.SpotMarket",
                "head_node_id": FAKE_HEAD_NODE_ID,
                "gcs_address": self.address,
                "launch_multiple": True,
                "disable_node_updaters": True,
            },
            "available_node_types": nodes,
            "head_node_type": "ray.head.default",
            **{f"{name}_commands": [] for name in empty_lists},
            **{"file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False},
            **{"rsync_exclude": [], "rsync_filter": [], "auth": {}},
        }

    def _command(self, config: Path) -> list[str]:
        words = ["start", "--head", "--block", "--num-cpus=0", f"--port={self.port}", "--disable-usage-stats"]
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={free_port()}", "--object-store-memory=100000000"]
        words += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        words += [f"--autoscaling-config={config}", f"--temp-dir={self._folder}"]
        return [str(Path(sys.executable).parent / "ray"), *words]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return kept | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
            "RAY_enable_autoscaler_v2": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            NODE_ID: FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_AUTH_MODE": "disabled",
            EMPTY_SHELF: str(self.shelf),
        }


def alive() -> list[dict[str, Any]]:
    """Return the nodes that live, without the head, as the connected cluster sees them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != FAKE_HEAD_NODE_ID]


def _own_address() -> str:
    from ray.util import get_node_ip_address

    return get_node_ip_address()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file that may be missing."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
