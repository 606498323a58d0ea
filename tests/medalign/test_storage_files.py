"""The verbs of storage, the same on a local folder and on a real S3 server."""

import os
import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_places import BUCKET, serving

from medalign import storage
from medalign.errors import ConflictError, NotFoundError, StorageError
from medalign.storage import s3_objects
from medalign.storage.s3_access import access


@pytest.fixture(scope="module")
def server():
    """A real S3 server; it is what s3:// means in this module."""
    with serving() as running:
        yield running


@pytest.fixture(params=["file", "s3"])
def place(request, tmp_path):
    """An empty folder of each kind."""
    if request.param == "file":
        return str(tmp_path / "place")
    request.getfixturevalue("server")
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_what_is_written_is_read_listed_and_deleted(place):
    files = {f"{place}/a.txt": b"one", f"{place}/deep/b.bin": b"", f"{place}/deep/er/c": os.urandom(3000)}
    for uri, data in files.items():
        storage.write_bytes(uri, data)
    assert {uri: storage.read_bytes(uri) for uri in files} == files
    assert storage.list_sizes(place) == {uri: len(data) for uri, data in sorted(files.items())}
    assert storage.list_files(place, recursive=False) == [f"{place}/a.txt"]
    assert storage.list_folders(place) == ["deep"]
    assert storage.exists(f"{place}/deep")
    storage.delete_folder(f"{place}/deep")
    storage.delete_file(f"{place}/a.txt")
    storage.delete_file(f"{place}/a.txt")
    assert storage.list_files(place) == []
    assert not storage.exists(f"{place}/a.txt")


def test_a_missing_file_is_named(place):
    for read in (storage.read_bytes, storage.read_version):
        with pytest.raises(NotFoundError, match=f"{place}/nothing: not found"):
            read(f"{place}/nothing")


def test_a_writer_that_fails_leaves_nothing(place):
    def write(size):
        with storage.open_output(f"{place}/half") as stream:
            stream.write(os.urandom(size))
            raise RuntimeError("in the middle")

    for size in (100, s3_objects.PART + 100):
        with pytest.raises(RuntimeError, match="in the middle"):
            write(size)
        assert storage.list_files(place) == []
    if place.startswith("s3://"):
        assert "Uploads" not in access().client().list_multipart_uploads(Bucket=BUCKET)


def test_a_new_file_has_one_writer_of_eight(place):
    outcomes = []

    def write(number):
        try:
            outcomes.append(storage.write_new(f"{place}/once", b"%d" % number))
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (tag,) = [each for each in outcomes if isinstance(each, str)]
    found = storage.read_version(f"{place}/once")
    assert found.tag == tag
    assert -2 <= found.age < 60


def test_a_version_is_replaced_once(place):
    uri = f"{place}/versions"
    first = storage.write_new(uri, b"1")
    second = storage.replace_version(uri, b"2", first)
    with pytest.raises(ConflictError, match=uri):
        storage.replace_version(uri, b"3", first)
    assert storage.read_version(uri).data == b"2"
    assert storage.read_version(uri).tag == second
    storage.delete_file(uri)
    with pytest.raises(ConflictError, match=uri):
        storage.replace_version(uri, b"4", second)


def test_a_long_file_goes_in_parts_and_comes_back_whole(place):
    data = os.urandom(2 * s3_objects.PART + 12345)
    with storage.open_output(f"{place}/long") as stream:
        for start in range(0, len(data), 7_000_000):
            stream.write(memoryview(data)[start : start + 7_000_000])
    assert storage.read_bytes(f"{place}/long") == data
    with storage.open_input(f"{place}/long") as stream:
        stream.seek(s3_objects.PART - 5)
        assert stream.read(10) == data[s3_objects.PART - 5 : s3_objects.PART + 5]
        stream.seek(-4, os.SEEK_END)
        assert stream.read(10) == data[-4:]


def test_parquet_is_written_and_read_through_a_pickled_filesystem_without_secrets(place, server):
    table = pa.table({"image": [os.urandom(2000) for _ in range(60)], "number": np.arange(60)})
    filesystem, path = storage.resolve(f"{place}/t.parquet")
    pickled = pickle.dumps(filesystem)
    assert server.secret_key.encode() not in pickled
    assert server.access_key.encode() not in pickled
    again = pickle.loads(pickled)
    assert again == filesystem
    if place.startswith("s3://"):
        pq.write_table(table, path, filesystem=again, row_group_size=20)
    else:
        storage.write_bytes(f"{place}/t.parquet", b"")
        pq.write_table(table, path, filesystem=again, row_group_size=20)
    found = pq.ParquetFile(path, filesystem=again)
    assert [found.read_row_group(i).num_rows for i in range(3)] == [20, 20, 20]
    assert pq.read_table(path, filesystem=again) == table


def test_a_missing_bucket_is_named_with_the_way_out(server):
    with pytest.raises(NotFoundError, match=r"s3://no-such-bucket/key: not found: no bucket.*create it"):
        storage.write_bytes("s3://no-such-bucket/key", b"x")
    assert not storage.exists("s3://no-such-bucket/key")


def test_a_wrong_secret_is_told_by_whose_it_is_and_never_shown(server, monkeypatch, caplog):
    caplog.set_level("DEBUG", logger="medalign")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    for act in (
        storage.read_bytes,
        storage.read_version,
        storage.list_files,
        lambda uri: storage.write_bytes(uri, b""),
    ):
        with pytest.raises(
            StorageError, match=rf"s3://{BUCKET}/k.*\.\.\.{server.access_key[-4:]} from the environment"
        ):
            act(f"s3://{BUCKET}/k")
    assert "canary-secret" not in caplog.text
    assert server.access_key not in caplog.text


def test_without_credentials_the_refusal_says_which_to_set(server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for act in (storage.read_bytes, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
            act(f"s3://{BUCKET}/k")


def test_a_profile_that_is_not_there_is_named(server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    for act in (storage.read_bytes, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(StorageError, match=rf"s3://{BUCKET}/k: .*no-such-profile"):
            act(f"s3://{BUCKET}/k")


def test_an_upload_that_nobody_closes_leaves_nothing(server):
    uri = f"s3://{BUCKET}/forgotten"
    upload = s3_objects.Upload(uri)
    upload.write(bytes(s3_objects.PART + 1))
    del upload
    assert not storage.exists(uri)
    assert "Uploads" not in access().client().list_multipart_uploads(Bucket=BUCKET)


def test_google_storage_has_no_writes_on_condition():
    with pytest.raises(StorageError, match=r"gs://bucket/key: writes on condition"):
        storage.write_new("gs://bucket/key", b"x")
