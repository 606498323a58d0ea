"""Workers on Ray that are killed again and again: the run ends as if nothing had happened."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from chaos_rig import RECIPE, figures
from striped_corpus import write_corpus

from medalign import checkpoint, train
from medalign.errors import MedAlignError

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
STEPS, KILLS, RECOVERY_S = 60, (7, 17, 26, 38, 49), 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "stripes", {"train": 100})
    return folder


def options(place: Path, run: Path, **train_keys: Any) -> tuple[str, list[str]]:
    """Return a recipe of a user's objective that tells where it is, and its run's override."""
    keys = {"workers": 2, "steps": STEPS, "checkpoint_every": 2, "validate_every": 0, "max_failures": 2 * len(KILLS)}
    parts = {
        **RECIPE,
        "run": {"seed": 4, "uri": str(run)},
        "data": {**RECIPE["data"], "corpus": str(place / "stripes")},
        "objective": {"type": "own_objectives:Telling", "projection_size": 8, "log": str(place / f"{run.name}.told")},
        "train": {**RECIPE["train"], **keys, **train_keys},
    }
    file = place / f"{run.name}.yaml"
    file.write_text(yaml.safe_dump(parts))
    return str(file), []


def told(place: Path, run: Path) -> list[dict[str, Any]]:
    """Return what the processes have told: a line for each forward, with step, index, rank, pid and time."""
    file = place / f"{run.name}.told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class Killer(threading.Thread):
    """Kills the process of a rank when the run has come to each of some steps, and takes the time to the next step."""

    def __init__(self, place: Path, run: Path, kills: tuple[int, ...]) -> None:
        super().__init__(daemon=True)
        self._place, self._run, self._kills = place, run, kills
        self.recoveries: list[tuple[int, int, float]] = []

    def run(self) -> None:
        """Kill."""
        for number, step in enumerate(self._kills):
            at = self._await(lambda line, step=step: line["step"] >= step)
            rank = number % 2
            victim = [line for line in told(self._place, self._run) if line["rank"] == rank][-1]
            os.kill(victim["pid"], signal.SIGKILL)
            died = time.time()
            after = self._await(lambda line, died=died, pid=at["pid"]: line["time"] > died and line["new"])
            self.recoveries.append((victim["step"], rank, after["time"] - died))

    def _await(self, wanted: Any) -> dict[str, Any]:
        while True:
            for line in reversed(told(self._place, self._run)):
                if wanted(line):
                    return line
            time.sleep(0.02)


def test_workers_killed_five_times_leave_no_trace(place: Path, ray_local: None) -> None:
    calm, killed = place / "calm", place / "killed"
    train(*options(place, calm))
    killer = Killer(place, killed, KILLS)
    killer.start()
    assert train(*options(place, killed)).step == STEPS
    killer.join(timeout=5)
    for step, rank, seconds in killer.recoveries:
        print(f"R3 rank {rank} killed in step {step}: {seconds:.1f} s to the first step afterwards")  # noqa: T201
    assert len(killer.recoveries) == len(KILLS)
    ends = [checkpoint.latest(str(run)) for run in (calm, killed)]
    assert ends[0] is not None
    assert ends[1] is not None
    found = checkpoint.diff(ends[0], ends[1])
    assert found.changed == []
    assert found.same > 20
    assert figures(killed) == figures(calm)
    samples = [{(line["step"], line["index"]): line["ids"] for line in told(place, run)} for run in (calm, killed)]
    assert samples[0] == samples[1]
    # what was computed twice is at most what a checkpoint interval holds, for each kill
    repeated = len({(line["pid"], line["step"]) for line in told(place, killed) if line["index"] == 0}) - STEPS
    assert repeated <= 3 * len(KILLS)
    assert max(seconds for *_, seconds in killer.recoveries) <= RECOVERY_S


def test_a_rank_that_raises_ends_the_run_soon_and_is_named(place: Path, ray_local: None) -> None:
    file, _ = options(place, place / "failing", max_failures=0)
    marker = place / "raised"
    failing = {"type": "own_objectives:Failing", "projection_size": 8, "marker": str(marker)}
    with pytest.raises(MedAlignError) as found:
        train(file, ["objective=" + json.dumps(failing)])
    seconds = time.time() - float(marker.read_text())
    print(f"R17 on Ray: the run ends {seconds:.1f} s after rank 1 raised: {found.value}")  # noqa: T201
    assert "rank 1, step 5: training failed (KeyError)" in str(found.value)
    assert seconds < 15
    assert not (place / "failing" / "run.lock").exists()
