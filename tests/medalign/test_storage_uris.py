"""URIs: their parts, and what does not belong into one."""

import pytest

from medalign import storage
from medalign.errors import StorageError
from medalign.storage.uris import split


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b", ("s3", "bucket/a/b")),
        ("s3://bucket/a/", ("s3", "bucket/a")),
        ("gs://bucket", ("gs", "bucket")),
        ("file:///a/b", ("file", "/a/b")),
        ("/a/../b", ("file", "/b")),
    ],
)
def test_a_uri_has_a_scheme_and_a_path(uri, parts):
    assert split(uri) == parts


@pytest.mark.parametrize("uri", ["", "ftp://host/x", "https://host/x", "s3://", "s3:///key"])
def test_what_is_no_place_is_refused_with_the_way_out(uri):
    with pytest.raises(StorageError, match=r"s3://|file://"):
        storage.exists(uri)


def test_a_secret_in_a_uri_is_refused_and_not_repeated():
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as refusal:
        storage.read_bytes("s3://AKIAEXAMPLE:canary-secret@bucket/key")
    assert "canary-secret" not in str(refusal.value)
    assert "AKIAEXAMPLE" not in str(refusal.value)


def test_a_server_is_named_by_the_environment_not_by_the_uri():
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL=http://host:port"):
        storage.exists("s3://bucket/key?endpoint_override=127.0.0.1:9000")


def test_an_address_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL=127.0.0.1:9000.*write http://host:port"):
        storage.exists("s3://bucket/key")


def test_joining_keeps_single_slashes_and_absolute_keeps_the_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.join("s3://b/a/", "/c/", "d") == "s3://b/a/c/d"
    assert storage.absolute("runs/a") == str(tmp_path / "runs" / "a")
    assert storage.absolute("s3://b/a") == "s3://b/a"
