"""Patience: which failures are tried again, how long, and how often."""

import logging
import threading
import time

import pytest

from medalign import storage
from medalign.errors import AccessError, NotFoundError, OutageError, StorageError
from medalign.storage import retries
from medalign.storage.failures import Kind, kind_of
from medalign.storage.retries import Patience, attempt, within

URI = "s3://bucket/key"


class Failing:
    """Fails `times` times, then returns 7."""

    def __init__(self, error, times=1000):
        self.error, self.times, self.calls = error, times, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return 7


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_passing_failure_is_tried_again_and_counted(times, caplog):
    caplog.set_level(logging.INFO, logger="medalign.storage")
    before = storage.counts.retries
    operation = Failing(ConnectionResetError("reset"), times)
    assert attempt(operation, uri=URI) == 7
    assert operation.calls == times + 1
    assert storage.counts.retries - before == times
    told = [record.getMessage() for record in caplog.records if "done at try" in record.getMessage()]
    assert len(told) == (times > 0)
    assert all(f"{URI}: done at try {times + 1}" in line for line in told)


def test_eight_tries_are_made_the_last_of_them_late_and_the_deadline_is_kept():
    operation = Failing(OSError("AWS Error SLOW_DOWN during GetObject operation: "))
    began = time.monotonic()
    with pytest.raises(OutageError, match=rf"{URI}.*SLOW_DOWN; \d tries in") as outage:
        attempt(operation, uri=URI, limits=Patience(seconds=1.0))
    assert operation.calls <= 8
    assert 0.6 <= time.monotonic() - began <= 1.3
    assert "check the address and the credentials" in str(outage.value)


@pytest.mark.parametrize("seed", range(5))
def test_an_outage_of_half_the_deadline_is_survived(seed, monkeypatch):
    monkeypatch.setattr(retries, "_jitter", retries.random.Random(seed))
    end = time.monotonic() + 0.5
    assert attempt(lambda: _after(end), uri=URI, limits=Patience(seconds=1.0)) == 7


def _after(end):
    if time.monotonic() < end:
        raise ConnectionRefusedError("refused")
    return 7


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), AccessError),
        (OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation"), NotFoundError),
        (FileNotFoundError("gone"), NotFoundError),
        (OSError("AWS Error VALIDATION during GetObject operation"), StorageError),
        (PermissionError("no"), StorageError),
    ],
)
def test_a_lasting_failure_is_told_at_once(error, kind):
    operation = Failing(error)
    with pytest.raises(StorageError, match=URI) as refusal:
        attempt(operation, uri=URI)
    assert type(refusal.value) is kind
    assert operation.calls == 1


def test_what_must_be_there_is_asked_for_three_times():
    operation = Failing(FileNotFoundError("not yet"), 2)
    assert attempt(operation, uri=URI, is_there=True) == 7
    with pytest.raises(NotFoundError, match=URI):
        attempt(Failing(FileNotFoundError("never"), 3), uri=URI, is_there=True)


def test_refused_credentials_are_renewed_once_and_the_refusal_names_whose_they_are():
    renewed = []

    def renew():
        renewed.append(1)
        return "the key ...abcd from the environment"

    refused = OSError("AWS Error UNKNOWN (HTTP status 403) during ListObjectsV2 operation: ExpiredToken")
    assert attempt(Failing(refused, 1), uri=URI, renew=renew) == 7
    with pytest.raises(AccessError, match=r"\.\.\.abcd from the environment"):
        attempt(Failing(refused), uri=URI, renew=renew)
    assert len(renewed) == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 18", Kind.TRANSIENT),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", Kind.TRANSIENT),
        ("AWS Error UNKNOWN (HTTP status 429) during ListObjectsV2 operation", Kind.TRANSIENT),
        ("AWS Error UNKNOWN (HTTP status 400) during ListObjectsV2 operation", Kind.FINAL),
        ("google::cloud::Status(UNAVAILABLE: try again)", Kind.TRANSIENT),
        ("google::cloud::Status(PERMISSION_DENIED: no)", Kind.DENIED),
        ("google::cloud::Status(NOT_FOUND: no)", Kind.MISSING),
    ],
)
def test_messages_of_pyarrow_are_understood(text, kind):
    assert kind_of(OSError(f"When reading information for key 'k' in bucket 'b': {text}")) is kind


def test_a_call_that_does_not_answer_is_given_up_and_its_thread_ends():
    release = threading.Event()
    before = threading.active_count()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, lambda: release.wait(10))
    assert time.monotonic() - began < 1
    release.set()
    _wait_for(lambda: threading.active_count() <= before)


def test_patience_changes_within_its_block_only():
    operation = Failing(ConnectionResetError("reset"))
    with storage.patience(tries=2, seconds=0.5), pytest.raises(OutageError, match="2 tries"):
        attempt(operation, uri=URI)
    assert operation.calls == 2
    assert attempt(Failing(ConnectionResetError("reset"), 2), uri=URI) == 7


def test_waits_have_full_jitter_below_a_growing_bound():
    limits = Patience()
    for step in range(1, 7):
        bound = min(retries.LONGEST_WAIT_S, retries.FIRST_WAIT_S * retries.WAIT_GROWTH ** (step - 1))
        waits = [retries._wait(step, limits, left=120.0, is_throttled=False) for _ in range(400)]
        assert 0 <= min(waits) < 0.05 * bound
        assert 0.95 * bound < max(waits) <= bound


def _wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
