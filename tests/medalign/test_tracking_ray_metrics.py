"""Ray's metrics of a run: what rank 0 publishes, read back from what it was given."""

import sys
from typing import Any

import pytest
import ray.util.metrics

from medalign.tracking import Tracking, open_trackers
from medalign.tracking.ray_metrics import RayMetrics


class Series:
    """Stands where Ray's metric would hand its number to the node's agent: Ray does not run in this test."""

    made: dict[str, "Series"] = {}

    def __init__(self, name: str, description: str = "", boundaries: Any = None, tag_keys: Any = None) -> None:
        assert description
        self.got: list[float] = []
        self.tags: list[dict] = []
        Series.made[name] = self

    def set(self, value: float, tags: dict) -> None:
        self.got.append(value)
        self.tags.append(tags)

    inc = observe = set


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> dict[str, Series]:
    monkeypatch.setattr(Series, "made", {})
    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(ray.util.metrics, kind, Series)
    return Series.made


def test_figures_are_gauges_steps_are_counted_and_solving_is_a_histogram(series: dict[str, Series]) -> None:
    tracker = RayMetrics("s3://bucket/runs/first", step=10)
    tracker.log(20, {"loss": 2.0, "images_per_second": 90.0, "solver_seconds": 0.02, "hamming": 1.0})
    tracker.log(30, {"loss": 1.0, "solver_seconds": 0.03})
    tracker.log(30, {"matching_accuracy": 0.5}, kind="validation")
    tracker.log(1, {"inert_matching_accuracy": 0.99}, kind="event")
    found = {name: made.got for name, made in series.items()}
    assert found == {
        "medalign_step": [20, 30],
        "medalign_steps_total": [10, 10],
        "medalign_loss": [2.0, 1.0],
        "medalign_images_per_second": [90.0],
        "medalign_solver_seconds": [0.02, 0.03],
        "medalign_validation_matching_accuracy": [0.5],
        "medalign_events_total": [1],
    }
    (tags,) = {tuple(tag.items()) for made in series.values() for tag in made.tags}
    assert tags[0][0] == "run"
    assert tags[0][1].startswith("first-")


def test_two_runs_of_one_name_are_two_series() -> None:
    names = [RayMetrics(uri)._tags["run"] for uri in ("a/first", "b/first", "b/first/")]
    assert names[0] != names[1] == names[2]


def test_without_ray_nothing_is_published(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    opened = open_trackers(Tracking(tensorboard=False), str(tmp_path), total_steps=1, console=False)
    assert not any(isinstance(tracker, RayMetrics) for tracker in opened.trackers)


def test_the_key_switches_them_off(tmp_path, monkeypatch: pytest.MonkeyPatch, series: dict[str, Series]) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for wanted in (True, False):
        settings = Tracking(tensorboard=False, ray_metrics=wanted)
        opened = open_trackers(settings, str(tmp_path), total_steps=1, console=False)
        assert any(isinstance(tracker, RayMetrics) for tracker in opened.trackers) == wanted
