"""A whole sweep on Ray over a subject that costs nothing: states, reasons, early stops, resuming, what is left."""

import json
import time

import pyarrow.parquet as pq
import pytest
import ray
import sweep_rig
from sweep_rig import STEPS, RigWork, document, value

from medalign.errors import RecipeError, RunError, RunLockedError
from medalign.storage import locks
from medalign.tune import resume, sweep
from medalign.tune.ledger import Ledger, read_events, trials_of

FIVE = {"trials": 6, "scheduler": {"type": "asha", "grace": 1, "reduction": 2}}


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    """One Ray with a dashboard for all sweeps of this file."""
    from medalign.tune import driver

    before = ray.is_initialized()
    driver.connect()
    yield
    if not before:
        ray.shutdown()


def ended_of(uri):
    """Return how often each trial ends in the ledger."""
    found = {}
    for event in read_events(str(uri)):
        if event["event"] == "ended":
            found[event["trial"]] = found.get(event["trial"], 0) + 1
    return found


def test_a_sweep_tries_every_trial_to_its_end_and_leaves_tables_and_the_best_recipe(tmp_path):
    uri = tmp_path / "sweep"
    found = sweep_rig.run(document(str(uri)), RigWork(str(tmp_path)))
    assert found.counted() == {"completed": 6, "stopped": 0, "failed": 0}
    assert ended_of(uri) == dict.fromkeys(range(6), 1)
    best = min(found.trials, key=lambda trial: abs(trial.point["x"] - 0.3))
    assert (found.best, found.value) == (best.number, value(best.point["x"]))
    assert [report.step for report in best.reports] == list(range(1, STEPS + 1))
    assert (best.steps, best.total_steps) == (STEPS, STEPS)
    assert pq.read_table(uri / "trials.parquet").num_rows == 6
    assert pq.read_table(uri / "reports.parquet").num_rows == 6 * STEPS * 2
    assert float((uri / "best.yaml").read_text().split(": ")[1]) == best.point["x"]
    assert not [at for at in uri.rglob("*") if at.suffix in (".pkl", ".pickle")]
    again = sweep_rig.run(document(str(uri)), RigWork(str(tmp_path)))  # nothing is left to do
    assert again.trials == found.trials


def test_a_failing_trial_does_not_stop_the_sweep_and_the_ledger_says_why(tmp_path):
    plan = {0: "raise", 1: "nan", 2: "die", 3: "die once", 4: "silent"}
    recipe = document(str(tmp_path / "sweep"), trials=7, max_failures=1)
    found = sweep_rig.run(recipe, RigWork(str(tmp_path), plan=plan))
    assert ended_of(tmp_path / "sweep") == dict.fromkeys(range(7), 1)
    states = {trial.number: (trial.state, trial.reason, trial.attempts) for trial in found.trials}
    assert states[0] == ("failed", "ZeroDivisionError: planted", 1)
    assert states[1] == ("failed", f"score: not finite at step {STEPS}.", 1)
    assert states[2] == ("failed", "its worker died 2 times.", 2)
    assert states[3] == ("completed", "", 2)
    assert states[4] == ("failed", "it ended without reporting score.", 1)
    assert states[5][0] == states[6][0] == "completed"
    (trace,) = [event["trace"] for event in read_events(str(tmp_path / "sweep")) if event.get("trace")]
    assert "sweep_rig.py" in trace
    assert "planted" in trace


@pytest.mark.parametrize("scheduler", [FIVE["scheduler"], {"type": "median", "grace": 2, "fewest": 2}])
def test_a_scheduler_stops_the_worse_trials_early_and_their_actor_goes_on_with_others(tmp_path, scheduler):
    recipe = document(str(tmp_path / "sweep"), trials=12, scheduler=scheduler)
    found = sweep_rig.run(recipe, RigWork(str(tmp_path)))
    counted = found.counted()
    assert counted["stopped"] >= 3
    assert counted["failed"] == 0
    assert sum(trial.steps for trial in found.trials) < 12 * STEPS
    stopped = next(trial for trial in found.trials if trial.state == "stopped")
    assert stopped.steps < STEPS
    assert "after step" in stopped.reason
    assert len({(tmp_path / "pids" / str(n)).read_text() for n in range(12)}) == 1


def test_trials_left_unfinished_are_run_again_under_their_number_and_none_is_sampled_twice(tmp_path):
    calm = sweep_rig.run(document(str(tmp_path / "calm")), RigWork(str(tmp_path)))
    uri = tmp_path / "sweep"
    sweep.folder.claim(str(uri), document(str(uri)).values)
    ledger = Ledger(str(uri))  # a driver that was killed when one trial was done and two were at work
    for number in range(3):
        ledger.write("sampled", trial=number, point=calm.trials[number].point)
        ledger.write("started", trial=number, attempt=1)
    ledger.write("report", trial=0, attempt=1, step=8, worked=8, total=8, seconds=1.0, values=calm.trials[0].values)
    ledger.write("ended", trial=0, state="completed", reason="", values=calm.trials[0].values, seconds=1.0)
    found = sweep_rig.run(document(str(uri)), RigWork(str(tmp_path)))
    assert ended_of(uri) == dict.fromkeys(range(6), 1)
    assert [trial.point for trial in found.trials] == [trial.point for trial in calm.trials]
    assert [trial.attempts for trial in found.trials] == [1, 2, 2, 1, 1, 1]
    assert (found.best, found.value) == (calm.best, calm.value)


def test_a_finished_sweep_is_grown_by_more_trials(tmp_path):
    uri = str(tmp_path / "sweep")
    sweep_rig.run(document(uri, trials=3), RigWork(str(tmp_path)))
    found = sweep_rig.run(document(uri, trials=5), RigWork(str(tmp_path)))
    assert [trial.attempts for trial in found.trials] == [1] * 5
    with pytest.raises(RunError, match="was started with tune.metric = 'score', now it is 'cost'"):
        sweep_rig.run(document(uri, trials=5, metric="cost"), RigWork(str(tmp_path)))


def test_tpe_and_several_metrics_give_a_front(tmp_path):
    settings = {"metric": ["score", "cost"], "mode": ["max", "min"], "sampler": {"type": "tpe", "startup": 3}}
    found = sweep_rig.run(document(str(tmp_path / "sweep"), **settings), RigWork(str(tmp_path)))
    assert found.counted()["completed"] == 6
    assert found.best in found.front


def test_a_sweep_at_work_is_not_joined_by_another(tmp_path):
    uri = str(tmp_path / "sweep")
    with (
        locks.hold(f"{uri}/sweep.lock", of=uri),
        pytest.raises(RunLockedError, match="another run is at work here"),
    ):
        sweep_rig.run(document(uri), RigWork(str(tmp_path)))


def test_what_is_no_sweep_is_not_resumed(tmp_path):
    with pytest.raises(RunError, match="no sweep is here"):
        resume(str(tmp_path))


def test_a_sweep_without_its_section_is_told_what_to_write():
    with pytest.raises(RecipeError, match="a sweep has tune:"):
        sweep.opened(sweep_rig.config.loads("search: {x: {uniform: [0, 1]}}"))


def test_a_trial_that_does_nothing_costs_little_after_the_first(tmp_path):
    began = []
    recipe = document(str(tmp_path / "sweep"), trials=10)
    sweep_rig.run(recipe, RigWork(str(tmp_path)), told=lambda line: began.append(time.monotonic()))
    per_trial = (began[-1] - began[1]) / 9  # began[0] is the head, began[1] the first trial's end
    print(json.dumps({"seconds per trial": round(per_trial, 3)}))  # noqa: T201
    assert per_trial < 5.0  # 0.1 s on a quiet machine
    assert len(trials_of(read_events(str(tmp_path / "sweep")))) == 10
