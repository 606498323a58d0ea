"""Preparation from and to an object store (moto's S3 server)."""

import boto3
import pytest
from drawn_images import write_folder
from moto.server import ThreadedMotoServer

from medalign import storage
from medalign.data import manifest
from medalign.data.prepare import prepare
from medalign.data.show import show
from medalign.data.validate import validate
from medalign.errors import StorageError


@pytest.fixture(scope="module")
def bucket():
    """Return the URI of an empty bucket; its address and keys are in the environment before Ray starts."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="corpora")
        yield "s3://corpora"
    server.stop()


def test_a_corpus_is_prepared_from_and_to_s3_equal_to_the_local_one(bucket, ray_local, tmp_path):
    source = write_folder(tmp_path / "set")
    for path in source.rglob("*.*"):
        storage.write_bytes(storage.join(bucket, "raw", str(path.relative_to(source))), path.read_bytes())
    local = prepare(str(source), format="image-folder", out=str(tmp_path / "c"), shard_rows=8)
    remote = prepare(f"{bucket}/raw", format="image-folder", out=f"{bucket}/deep/c", shard_rows=8)
    assert remote == local
    assert manifest.read(f"{bucket}/deep/c") == local
    assert validate(f"{bucket}/deep/c").is_valid
    names = [path.removeprefix(f"{bucket}/deep/c/") for path in storage.list_files(f"{bucket}/deep/c")]
    assert sorted(names) == sorted(str(p.relative_to(tmp_path / "c")) for p in (tmp_path / "c").rglob("*.*"))
    sheet = show(f"{bucket}/deep/c", contact_sheet=tmp_path / "sheet.png")
    assert sheet.rows == 24
    assert b"canary-secret" not in storage.read_bytes(f"{bucket}/deep/c/manifest.json")
    with pytest.raises(StorageError, match="s3://nowhere/c"):
        prepare(str(source), format="image-folder", out="s3://nowhere/c")
