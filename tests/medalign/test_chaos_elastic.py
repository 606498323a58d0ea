"""A node that dies under a run that may shrink: it goes on with fewer workers, and ends as if nothing had happened."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos_rig import figures
from striped_corpus import write_corpus
from test_chaos_ray import options, told

from medalign import checkpoint, train

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
STEPS, DIES_AT = 40, 14


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs and two nodes, each with room for one worker and some data."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "25")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    for _ in range(2):
        found.add_node(num_cpus=3, object_store_memory=100_000_000)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


def test_a_run_with_a_range_of_workers_outlives_a_node_and_computes_the_same(cluster: Any, tmp_path: Path) -> None:
    write_corpus(tmp_path / "stripes", {"train": 100})
    run, calm = tmp_path / "run", tmp_path / "calm"
    sizes = {"steps": STEPS, "checkpoint_every": 4, "cpus_per_worker": 2, "max_failures": 3}
    killed: list[tuple[str, float]] = []

    def kill_a_node() -> None:
        while not (lines := [line for line in told(tmp_path, run) if line["step"] >= DIES_AT and line["rank"] == 1]):
            time.sleep(0.05)
        node = next(n for n in cluster.worker_nodes if n.node_id == lines[-1]["node"])
        killed.append((lines[-1]["node"], time.time()))
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill_a_node, daemon=True)
    thread.start()
    result = train(*options(tmp_path, run, min_workers=1, **sizes))
    thread.join(timeout=60)
    assert result.step == STEPS
    ((node, at),) = killed
    first = next(line for line in told(tmp_path, run) if line["time"] > at and line["new"])
    after = [line for line in told(tmp_path, run) if line["time"] >= first["time"]]
    assert node not in {line["node"] for line in after}
    assert {line["rank"] for line in after} == {0}  # one worker computes all
    assert {line["step"] for line in after} == set(range(first["step"], STEPS))
    print(f"node killed -> first new step {first['time'] - at:.1f} s")  # noqa: T201
    train(*options(tmp_path, calm, workers=0, **{**sizes, "cpus_per_worker": 0.5}))
    ours, theirs = ([line for line in figures(r) if line["kind"] == "train"] for r in (run, calm))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
    assert checkpoint.latest(str(run)).state.step == STEPS
