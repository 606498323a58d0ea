"""Corpora on an object store: a bit that flips on the way is caught by the manifest's hashes, and fetched again."""

from pathlib import Path

import boto3
import numpy as np
import pytest
from fault_proxy import FaultProxy, Rule
from moto.server import ThreadedMotoServer
from striped_corpus import write_corpus

from medalign import storage
from medalign.data import shard_file
from medalign.data.reader import RowSource
from medalign.errors import CorpusError, StorageError

ALL = np.arange(50)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A corpus as files and the same on S3, behind a proxy that breaks what its rules say."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with FaultProxy(f"http://{host}:{port}") as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="corpora")
        local = write_corpus(tmp_path_factory.mktemp("corpora") / "stripes", {"train": 50})
        storage.copy_folder(local, "s3://corpora/stripes")
        yield local, "s3://corpora/stripes", proxy
    server.stop()


@pytest.fixture(autouse=True)
def _fresh(places):
    shard_file.open_shard.cache_clear()
    places[2].rules.clear()
    places[2].injected.clear()


def test_a_corpus_on_s3_reads_as_its_files_do(places):
    local, remote, proxy = places
    before = proxy.requests["GetObject"]
    assert RowSource.open(remote, ("train",)).take(ALL) == RowSource.open(local, ("train",)).take(ALL)
    # the manifest; a footer for each of three shards, a request for each of eight row groups
    assert proxy.requests["GetObject"] - before == 1 + 3 + 8


def test_a_bit_that_flips_on_the_way_stops_the_run(places):
    _, remote, proxy = places
    source = RowSource.open(remote, ("train",))
    proxy.rules.append(Rule("flip", operation="GetObject", key="part-00001"))
    assert source.take(np.arange(20)).num_rows == 20
    with pytest.raises(CorpusError, match=r"s3://.*part-00001.parquet: row group 0 cannot be read"):
        source.take(ALL)
    assert proxy.injected["flip"] >= 1


def test_a_bit_that_flips_on_the_way_is_fetched_again(places):
    local, remote, proxy = places
    source = RowSource.open(remote, ("train",), on_damage="refetch")
    proxy.rules.append(Rule("flip", operation="GetObject", key=".parquet", times=2))
    assert source.take(ALL) == RowSource.open(local, ("train",)).take(ALL)
    assert proxy.injected["flip"] == 2


def test_a_store_that_is_away_is_an_outage_and_makes_no_holes(places):
    _, remote, proxy = places
    source = RowSource.open(remote, ("train",), on_damage="skip")
    proxy.rules.append(Rule("internal", key=Path(source.shards[0]).name))
    with storage.patience(tries=2, seconds=5.0), pytest.raises(StorageError, match="part-00000"):
        source.take(ALL)
