"""The ledger: what is written comes back, whatever ended the writer; and judging, packing and settings."""

import math

import pytest

from medalign.errors import PlanError, RunError
from medalign.tune.judging import best_of, pareto_front
from medalign.tune.ledger import LINES_PER_FILE, Ledger, read_events, trials_of
from medalign.tune.packing import Demand, pack
from medalign.tune.result import TrialRecord
from medalign.tune.settings import ASHA, PBT, FewShotTrial, MedianStopping, Tune


def report(ledger, trial, step, value, attempt=1):
    said = {"step": step, "worked": step, "total": 10, "seconds": float(step), "values": {"score": value}}
    ledger.write("report", trial=trial, attempt=attempt, **said)


def test_trials_come_back_as_they_were_written_over_several_drivers(tmp_path):
    first = Ledger(str(tmp_path))
    first.write("sampled", trial=0, point={"a.b": 0.25})
    first.write("started", trial=0, attempt=1)
    report(first, 0, 2, math.nan)
    first.flush()
    second = Ledger(str(tmp_path))  # another driver: the first one's file is not touched again
    second.write("started", trial=0, attempt=2)
    report(second, 0, 2, 0.5, attempt=2)
    report(second, 0, 4, 0.75, attempt=2)
    second.write("ended", trial=0, state="completed", reason="", values={"score": 0.75}, seconds=4.0)
    (found,) = trials_of(read_events(str(tmp_path)))
    assert (found.point, found.state, found.attempts) == ({"a.b": 0.25}, "completed", 2)
    assert [(r.step, r.values["score"]) for r in found.reports] == [(2, 0.5), (4, 0.75)]
    assert (found.steps, found.seconds, found.values) == (6, 6.0, {"score": 0.75})
    assert len(list(tmp_path.glob("ledger/*.jsonl"))) == 2


def test_a_full_file_is_left_and_the_next_one_begun(tmp_path):
    ledger = Ledger(str(tmp_path))
    for number in range(LINES_PER_FILE + 10):
        ledger.write("note", text=str(number))
    assert len(list(tmp_path.glob("ledger/*.jsonl"))) == 2
    assert [event["text"] for event in read_events(str(tmp_path))] == [str(n) for n in range(LINES_PER_FILE + 10)]


def test_a_trial_that_ends_twice_is_refused(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.write("sampled", trial=0, point={})
    for _ in range(2):
        ledger.write("ended", trial=0, state="failed", reason="x", values={}, seconds=0.0)
    with pytest.raises(RunError, match="trial 0 ends twice"):
        trials_of(read_events(str(tmp_path)))


def test_a_damaged_line_names_its_file(tmp_path):
    Ledger(str(tmp_path)).write("note", text="x")
    at = tmp_path / "ledger" / "000001.jsonl"
    at.write_text(at.read_text() + "{half")
    with pytest.raises(RunError, match=r"000001.jsonl:2: not a line of a ledger"):
        read_events(str(tmp_path))


def trial(number, score, cost=0.0, state="completed"):
    return TrialRecord(number=number, point={}, state=state, values={"score": score, "cost": cost})


def test_the_best_is_a_completed_one_and_the_first_in_a_tie():
    settings = Tune(uri="u", metric="score", trials=1)
    trials = [trial(0, 0.5), trial(1, 0.7), trial(2, 0.7), trial(3, 0.9, state="stopped"), trial(4, math.nan)]
    assert best_of(trials, settings).number == 1
    assert best_of(trials, Tune(uri="u", metric="score", mode="min", trials=1)).number == 0
    assert best_of(trials[3:], settings) is None


def test_the_front_holds_what_nothing_beats_in_all_metrics():
    settings = Tune(uri="u", metric=("score", "cost"), mode=("max", "min"), trials=1)
    trials = [trial(0, 0.5, 1.0), trial(1, 0.9, 3.0), trial(2, 0.4, 2.0), trial(3, 0.9, 4.0)]
    assert [found.number for found in pareto_front(trials, settings)] == [0, 1]


@pytest.mark.parametrize(
    ("settings", "cluster", "cores", "demand", "expected"),
    [
        ({}, {"CPU": 4}, 2, Demand(), 2),  # a local cluster's 4 logical CPUs stand for 2 cores
        ({}, {"CPU": 4}, None, Demand(), 4),
        ({"cpus": 0.5}, {"CPU": 4}, 2, Demand(), 4),
        ({"gpus": 0.25}, {"CPU": 64, "GPU": 2}, None, Demand(), 8),
        ({"concurrent": 1}, {"CPU": 8}, None, Demand(), 1),
        ({}, {"CPU": 8}, None, Demand(workers=2, cpus=0.5), 3),  # 2 * 0.5, one for data, 0.1 for the driver
        ({}, {"CPU": 64, "GPU": 4}, None, Demand(workers=2, cpus=1, gpus=1), 2),
    ],
)
def test_as_many_trials_run_together_as_the_cluster_has_room_for(settings, cluster, cores, demand, expected):
    chosen = Tune(uri="u", metric="m", trials=1, **settings)
    assert pack(chosen, cluster, cores=cores, demand=demand).concurrent == expected


def test_a_trial_without_room_is_refused_before_it_starts():
    with pytest.raises(PlanError, match="one trial needs 3.1 CPUs and 0 GPUs, the cluster has 2"):
        pack(Tune(uri="u", metric="m", trials=1), {"CPU": 2}, cores=None, demand=Demand(workers=2, cpus=1))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Tune(uri="u", metric="m"), "trials must be >= 1"),
        (lambda: Tune(uri="", metric="m", trials=1), "uri must not be empty"),
        (lambda: Tune(uri="u", metric=("a", "a"), mode=("max", "max"), trials=1), "metrics differ"),
        (lambda: Tune(uri="u", metric=("a", "b"), trials=1), "mode must be given once per metric"),
        (lambda: Tune(uri="u", metric="m", trials=1, concurrent=-1), "concurrent must be >= 0"),
        (lambda: Tune(uri="u", metric="m", trials=1, cpus=0), "cpus must be > 0"),
        (
            lambda: Tune(uri="u", metric=("a", "b"), mode=("max", "min"), trials=1, scheduler=ASHA(grace=1)),
            "scheduler must be none with several metrics",
        ),
        (lambda: ASHA(grace=0), "grace must be >= 1"),
        (lambda: ASHA(grace=1, reduction=1), "reduction must be > 1"),
        (lambda: MedianStopping(grace=1, fewest=0), "fewest must be >= 1"),
        (lambda: PBT(every=1, quantile=0.7), "quantile must be in"),
        (lambda: FewShotTrial(task="t", method="m", shots=1, folds=1), "folds must be >= 2"),
    ],
)
def test_settings_refuse_what_cannot_be(build, said):
    with pytest.raises(ValueError, match=said):
        build()
