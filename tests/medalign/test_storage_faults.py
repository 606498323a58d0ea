"""Storage behind a proxy that breaks requests: what can be mended surfaces nowhere, no byte is wrong, all ends."""

import logging
import os
import threading
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import Rule
from s3_places import BUCKET, behind_proxy, serving

from medalign import storage
from medalign.errors import AccessError, ConflictError, OutageError
from medalign.storage import s3_objects

PLACE = f"s3://{BUCKET}"
RANDOM = ("slow_down", "internal", "throttle", "reset", "refuse", "truncate", "wrong_length")


@pytest.fixture(scope="module")
def server():
    """A real S3 server; the proxies of this module stand before it."""
    with serving() as running:
        yield running


def rules(share, faults=RANDOM):
    """Return faults that together break this share of all requests; a shortened length can only be had by reads."""
    return [Rule(fault, share=share / len(faults)) for fault in faults]


@pytest.mark.parametrize("fault", [*RANDOM, "expired", "missing", "slow"])
def test_one_fault_of_each_kind_in_each_operation_is_mended(server, fault):
    small, long = os.urandom(200_000), os.urandom(s3_objects.PART + 1000)
    operations = ("GetObject", "HeadObject", "ListObjects", "PutObject", "UploadPart", "CompleteMultipartUpload")
    place = f"{PLACE}/each/{fault}"
    with behind_proxy(server) as proxy:
        proxy.rules[:] = [Rule(fault, operation=name, times=1, rate=10_000_000, after=70) for name in operations]
        storage.write_bytes(f"{place}/small", small)
        storage.write_bytes(f"{place}/long", long)
        assert storage.list_sizes(place) == {f"{place}/long": len(long), f"{place}/small": len(small)}
        assert storage.read_bytes(f"{place}/small") == small
        assert storage.read_bytes(f"{place}/long") == long
        if fault != "wrong_length":
            assert proxy.injected[fault] >= 5


def test_an_error_inside_a_200_at_the_end_of_an_upload_is_seen(server):
    data = os.urandom(s3_objects.PART + 10)
    with behind_proxy(server, Rule("error_in_200", times=2)) as proxy:
        storage.write_bytes(f"{PLACE}/two-hundred", data)
        assert proxy.injected["error_in_200"] == 2
        assert storage.read_bytes(f"{PLACE}/two-hundred") == data


@pytest.mark.parametrize("fault", ["reset", "truncate"])
def test_a_conditional_write_whose_answer_is_lost_is_not_taken_for_a_defeat(server, fault):
    uri = f"{PLACE}/lost/{fault}"
    with behind_proxy(server, Rule(fault, operation="PutObject", times=2)) as proxy:
        tag = storage.write_new(uri, b"mine")
        assert storage.replace_version(uri, b"mine again", tag) == storage.read_version(uri).tag
        assert proxy.injected[fault] == 2
        with pytest.raises(ConflictError):
            storage.write_new(uri, b"another's")


def test_a_bit_that_flips_on_the_way_is_noticed_where_the_store_keeps_checksums(server):
    storage.write_bytes(f"{PLACE}/flip", b"a pointer")
    with behind_proxy(server, Rule("flip", times=2)) as proxy:
        assert storage.read_version(f"{PLACE}/flip").data == b"a pointer"
        assert proxy.injected["flip"] == 2


def test_row_groups_arrive_whole_through_a_fifth_of_faults(server, caplog):
    caplog.set_level(logging.INFO, logger="medalign.storage")
    table = pa.table({"image": [os.urandom(20_000) for _ in range(120)]})
    filesystem, path = storage.resolve(f"{PLACE}/rows.parquet")
    pq.write_table(table, path, filesystem=filesystem, row_group_size=10)
    with behind_proxy(server, *rules(0.2), seed=5) as proxy:
        before = storage.counts.retries
        for _ in range(4):
            found = pq.ParquetFile(path, filesystem=filesystem)
            assert pa.concat_tables(found.read_row_group(i) for i in range(12)) == table
        assert sum(proxy.injected.values()) > 8
        assert 0 < storage.counts.retries - before <= sum(proxy.injected.values())
    assert f"{PLACE}/rows.parquet: done at try 2" in caplog.text


def test_a_fifth_of_random_faults_surfaces_nowhere(server):
    broken, _ = random_faults(server, objects=60, reads=120, writes=3, size=s3_objects.PART + 5000)
    assert broken["injected"] > 40


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_500_reads_and_20_checkpoints_through_a_fifth_of_faults_take_at_most_twice_as_long(server):
    broken, clean = random_faults(server, objects=500, reads=500, writes=20, size=2 * s3_objects.PART + 5000)
    print(f"R8 with faults {broken}; without {clean}")  # noqa: T201 - the figures of docs/reliability.md
    assert broken["injected"] > 200
    assert broken["seconds"] <= 2 * clean["seconds"]


def random_faults(server, *, objects, reads, writes, size):
    """Read and write without and with faults, turn by turn; return what both came to. Every byte is compared."""
    contents = [os.urandom(256_000) for _ in range(objects)]
    checkpoint = os.urandom(size)
    for number, data in enumerate(contents):
        storage.write_bytes(f"{PLACE}/objects/{number}", data)
    spent, retried, failed = Counter(), storage.counts.retries, storage.counts.failures
    with behind_proxy(server, seed=8) as proxy:
        turns = 4
        for turn in range(turns):
            for share in (0.0, 0.2):
                proxy.rules[:] = rules(share) if share else []
                began = time.monotonic()
                for number in range(turn * reads // turns, (turn + 1) * reads // turns):
                    assert storage.read_bytes(f"{PLACE}/objects/{number % objects}") == contents[number % objects]
                for number in range(turn * writes // turns, (turn + 1) * writes // turns):
                    storage.write_bytes(f"{PLACE}/checkpoints/{share}/{number}", checkpoint)
                spent[share] += time.monotonic() - began
        proxy.rules[:] = []
        for number in range(writes):
            assert storage.read_bytes(f"{PLACE}/checkpoints/0.2/{number}") == checkpoint
        injected, asked = sum(proxy.injected.values()), sum(proxy.requests.values())
    assert storage.counts.failures == failed
    figures = {"injected": injected, "requests": asked, "retries": storage.counts.retries - retried}
    return {"seconds": round(spent[0.2], 1), **figures}, {"seconds": round(spent[0.0], 1)}


def test_an_outage_of_half_the_deadline_is_survived_and_a_longer_one_ends_in_one_line(server):
    storage.write_bytes(f"{PLACE}/outage", b"data")
    with behind_proxy(server, Rule("refuse")) as proxy:
        began = time.monotonic()
        with (
            storage.patience(seconds=3.0, try_seconds=1.0),
            pytest.raises(OutageError, match=rf"^{PLACE}/outage: cannot be reached \(.*tries in [1-4] s\); check"),
        ):
            storage.read_bytes(f"{PLACE}/outage")
        assert 1.5 < time.monotonic() - began < 4.5
        with storage.patience(seconds=10.0, try_seconds=5.0):
            threading.Timer(5.0, proxy.rules.clear).start()
            assert storage.read_bytes(f"{PLACE}/outage") == b"data"
            proxy.rules[:] = [Rule("internal")]
            threading.Timer(5.0, proxy.rules.clear).start()
            storage.write_bytes(f"{PLACE}/outage", b"written")
    assert storage.read_bytes(f"{PLACE}/outage") == b"written"


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_an_outage_of_60_seconds_is_survived_with_the_usual_patience(server):
    storage.write_bytes(f"{PLACE}/minute", b"data")
    with behind_proxy(server, Rule("refuse")) as proxy:
        end = threading.Timer(60, proxy.rules.clear)
        end.start()
        began = time.monotonic()
        assert storage.read_bytes(f"{PLACE}/minute") == b"data"
        print(f"R9 read after {time.monotonic() - began:.0f} s")  # noqa: T201
        assert 60 <= time.monotonic() - began <= 120
        proxy.rules[:] = [Rule("slow_down")]
        threading.Timer(60, proxy.rules.clear).start()
        began = time.monotonic()
        storage.write_bytes(f"{PLACE}/minute", b"written")
        print(f"R9 write after {time.monotonic() - began:.0f} s")  # noqa: T201
        assert 60 <= time.monotonic() - began <= 120
        proxy.rules[:] = [Rule("refuse")]
        began = time.monotonic()
        with pytest.raises(OutageError, match=f"{PLACE}/minute: cannot be reached"):
            storage.exists(f"{PLACE}/minute")
        print(f"R9 given up after {time.monotonic() - began:.0f} s")  # noqa: T201
        assert 60 <= time.monotonic() - began <= 122


def act_on(uri):
    """Return what reads, writes, lists and asks of a URI, through pyarrow and boto3."""
    return {
        "read": lambda: storage.read_bytes(uri),
        "version": lambda: storage.read_version(uri),
        "list": lambda: storage.list_files(PLACE),
        "write": lambda: storage.write_bytes(uri, b"x"),
        "parts": lambda: storage.write_bytes(uri, bytes(s3_objects.PART + 1)),
    }


@pytest.mark.parametrize("name", ["read", "version", "list", "write", "parts"])
def test_a_server_that_never_answers_is_left_at_the_deadline_and_no_thread_stays(server, name):
    storage.write_bytes(f"{PLACE}/hang", b"data")
    with behind_proxy(server, Rule("hang")) as proxy, storage.patience(try_seconds=0.7, seconds=2.0):
        before = threading.active_count()
        began = time.monotonic()
        with pytest.raises(OutageError, match="no answer within"):
            act_on(f"{PLACE}/hang")[name]()
        assert 1.0 <= time.monotonic() - began <= 8.0  # 2 s, and a busy machine
        proxy.let_go()
        end = time.monotonic() + 10
        while threading.active_count() > before:
            assert time.monotonic() < end, threading.enumerate()
            time.sleep(0.05)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_hangs_end_by_the_usual_deadlines(server):
    storage.write_bytes(f"{PLACE}/hang", b"data")
    before = threading.active_count()
    with behind_proxy(server, Rule("hang")):
        for name in ("read", "version", "write"):
            with storage.patience(tries=1):
                began = time.monotonic()
                with pytest.raises(OutageError):
                    act_on(f"{PLACE}/hang")[name]()
                print(f"R10 one try of {name} ends after {time.monotonic() - began:.1f} s")  # noqa: T201
                assert 28 <= time.monotonic() - began <= 32
        began = time.monotonic()
        with pytest.raises(OutageError):
            storage.read_bytes(f"{PLACE}/hang")
        print(f"R10 a read ends after {time.monotonic() - began:.1f} s")  # noqa: T201
        assert 88 <= time.monotonic() - began <= 122
    end = time.monotonic() + 40
    while threading.active_count() > before + 1:
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.5)


def test_credentials_that_expire_are_read_anew_once_and_the_refusal_shows_no_secret(
    server, monkeypatch, tmp_path, caplog
):
    caplog.set_level(logging.DEBUG, logger="medalign")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = AKIAOLD0\naws_secret_access_key = canary-secret\n")
    good = f"[default]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    with behind_proxy(server, Rule("expired", access_key="AKIAOLD0")) as proxy:
        for act in act_on(f"{PLACE}/expired").values():
            with pytest.raises(AccessError, match=r"s3://\S+: .*the key \.\.\.OLD0 from the shared credentials file"):
                act()
        assert proxy.injected["expired"] == 10
        file.write_text(good)
        storage.write_bytes(f"{PLACE}/expired", b"x")
        for act in act_on(f"{PLACE}/expired").values():
            act()
        assert proxy.injected["expired"] == 10 + 1
    for secret in ("canary-secret", server.secret_key):
        assert secret not in caplog.text
