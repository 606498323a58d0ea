"""Autoscaling, really run: from no node but the head to two, a node lost, one, two again, and none."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from autoscaled_cluster import AutoscaledCluster, alive
from chaos_rig import figures
from striped_corpus import write_corpus
from test_chaos_ray import options, told

from medalign import checkpoint, train
from medalign.launch import elastic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
STEPS, PAUSE_S = 80, 0.2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[AutoscaledCluster]:
    """Up to two nodes that take a training worker whole, and two for data; none is there yet."""
    import ray

    monkeypatch.setattr(elastic, "LOOK_EVERY_S", 5.0)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("MEDALIGN_CLUSTER_MOST", '{"CPU": 8}')  # as the rendered files tell the head
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    # idle for longer than a restart takes: while a lost node is on order, Ray counts on it for data as well, and orders
    # no other one
    found = AutoscaledCluster({"train": (3, 2), "data": (1, 2)}, idle_minutes=1.0)
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    ray.shutdown()
    found.close()


class Story(threading.Thread):
    """What happens to a run while it runs, with the seconds that each turn took."""

    def __init__(self, cluster: AutoscaledCluster, place: Path, run: Path) -> None:
        super().__init__(daemon=True)
        self._cluster, self._place, self._run = cluster, place, run
        self.took: dict[str, float] = {}
        self.killed = ""
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Let it happen."""
        try:
            self._tell()
        except BaseException as error:  # noqa: BLE001 - raised by the test
            self.failure = error

    def _tell(self) -> None:
        began = time.time()
        self._after("start -> first step", began, lambda line: True)
        self._after("start -> first step of two workers", began, lambda line: line["rank"] == 1)
        self._after("", began, lambda line: line["step"] >= 6)
        self._cluster.shelf.touch()  # nothing to replace what is lost
        line = [line for line in told(self._place, self._run) if line["rank"] == 1][-1]
        self.killed = line["node"]
        before, died = {line["pid"] for line in told(self._place, self._run)}, time.time()
        self._cluster.kill(self.killed)
        self._after("node killed -> first new step", died, lambda line: line["new"] and line["pid"] not in before)
        for _ in range(5):  # steps of the one that is left
            now = time.time()
            self._after("", now, lambda line, now=now: line["time"] > now)
        self._cluster.shelf.unlink()
        back = time.time()
        self._after(
            "capacity back -> first step of two workers", back, lambda line: line["time"] > back and line["rank"]
        )

    def _after(self, name: str, began: float, wanted: Callable[[dict[str, Any]], Any]) -> None:
        deadline = time.time() + 240
        while not (found := [line for line in told(self._place, self._run) if wanted(line)]):
            assert time.time() < deadline, f"{name}: waited in vain; {self._cluster.monitor_log()[-3000:]}"
            time.sleep(0.05)
        if name:
            self.took[name] = found[0]["time"] - began


def test_a_run_grows_outlives_a_node_grows_again_and_leaves_an_empty_cluster(
    cluster: AutoscaledCluster, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "stripes", {"train": 100})
    run, calm = tmp_path / "run", tmp_path / "calm"
    sizes = {"steps": STEPS, "checkpoint_every": 4, "cpus_per_worker": 3, "max_failures": 5, "min_workers": 1}
    story = Story(cluster, tmp_path, run)
    story.start()
    recipe, _ = options(tmp_path, run, **sizes)
    result = train(recipe, [f"objective.pause={PAUSE_S}"])
    ended = time.time()
    story.join(timeout=60)
    for name, seconds in story.took.items():
        print(f"{name}: {seconds:.1f} s")  # noqa: T201
    if story.failure:
        raise story.failure
    assert result.step == STEPS
    lines = told(tmp_path, run)
    trainers = {line["node"] for line in lines}
    assert len(trainers) >= 3  # two at first, and one that came for the one that was lost
    for_data = {node["NodeID"] for node in alive() if node["Resources"].get("CPU") == 1}
    assert for_data  # a worker fills a training node, so reading and decoding went elsewhere
    assert not for_data & trainers
    while alive():
        assert time.time() - ended < 180, cluster.monitor_log()[-3000:]
        time.sleep(0.5)
    print(f"run ended -> no node but the head: {time.time() - ended:.1f} s")  # noqa: T201
    train(*options(tmp_path, calm, workers=0, **{**sizes, "cpus_per_worker": 0.5, "min_workers": 0}))
    samples = [{(line["step"], line["index"]): line["ids"] for line in told(tmp_path, r)} for r in (run, calm)]
    assert samples[0] == samples[1]
    ours, theirs = ({line["step"]: line["loss"] for line in figures(r) if line["kind"] == "train"} for r in (run, calm))
    assert ours.keys() == theirs.keys()
    early = [step for step in ours if step <= 40]  # sums of one and of two workers round differently, which grows
    assert [ours[step] for step in early] == pytest.approx([theirs[step] for step in early], rel=1e-4)
    assert checkpoint.latest(str(run)).state.step == STEPS
