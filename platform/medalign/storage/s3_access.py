"""The way to an S3 server: address, credentials, a boto3 client and a pyarrow filesystem, renewed when refused.

Address and credentials are read in each process, from the environment and the usual chain; nothing that is pickled or
logged holds them.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from medalign.errors import StorageError
from medalign.storage import failures

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
SOURCES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"),
)
CONNECT_TIMEOUT_S = 10
SILENCE_TIMEOUT_S = 30  # no byte for so long ends a try
DEFAULT_REGION = "us-east-1"  # what servers other than Amazon's expect, and what only signatures use there


@dataclass(frozen=True)
class Address:
    """Where an S3 server is.

    Attributes:
        url: http://host:port, None for Amazon's.
        region: None for the one of the profile.
    """

    url: str | None
    region: str | None

    @classmethod
    def from_environment(cls) -> Address:
        """Read AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION.

        Raises:
            StorageError: an address that is not one.
        """
        name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
        url = os.environ[name].rstrip("/") if name else None
        if url and not url.startswith(("http://", "https://")):
            raise StorageError(f"{name}={url}: not an address; write http://host:port or https://host.")
        return cls(url, next((os.environ[name] for name in REGIONS if os.environ.get(name)), None))


class Access:
    """One server seen with one set of credentials; thread-safe."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.generation = 0
        self._lock = threading.Lock()
        self._client: Any = None
        self._filesystem: fs.S3FileSystem | None = None
        self._session: Any = None

    def client(self) -> Any:
        """Return a boto3 client that makes one try of each request: `retries.attempt` makes the others.

        Raises:
            StorageError: boto3 is not installed.
        """
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def filesystem(self) -> fs.S3FileSystem:
        """Return pyarrow's filesystem, which makes one try of each request as well."""
        with self._lock:
            if self._filesystem is None:
                self._filesystem = self._new_filesystem()
            return self._filesystem

    def renew(self, generation: int) -> str:
        """Read the credentials anew, unless another thread has since; return whose they are, without a secret."""
        with self._lock:
            if self.generation == generation:
                self.generation += 1
                self._client = self._filesystem = self._session = None
            try:
                found = self._credentials()
            except failures.caught() as error:  # a profile that is not there, a file that is none
                return f"nobody: {failures.summary(error)}"
        if found is None:
            return "nobody: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return f"the key ...{found.access_key[-4:]} from {_SAID.get(found.method, found.method)}"

    def _credentials(self) -> Any:
        """Return botocore's credentials, None where it has none or is not installed."""
        if self._session is None:
            try:
                import botocore.session
            except ModuleNotFoundError:
                return None
            self._session = botocore.session.Session()
        return self._session.get_credentials()

    def _new_client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ModuleNotFoundError as error:
            raise StorageError("writing to s3:// needs boto3; pip install 'medalign[s3]'.") from error
        self._credentials()
        session = boto3.Session(botocore_session=self._session)
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=SILENCE_TIMEOUT_S,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=16,
            s3={"addressing_style": "path" if self.address.url else "auto"},
        )
        region = self.address.region or session.region_name or DEFAULT_REGION
        return session.client("s3", endpoint_url=self.address.url, region_name=region, config=config)

    def _new_filesystem(self) -> fs.S3FileSystem:
        scheme, _, host = (self.address.url or "https://").partition("://")
        options: dict[str, Any] = {}
        if credentials := self._credentials():
            frozen = credentials.get_frozen_credentials()
            options = {
                "access_key": frozen.access_key,
                "secret_key": frozen.secret_key,
                "session_token": frozen.token,
            }
        region = self.address.region or (DEFAULT_REGION if self.address.url else None)
        return fs.S3FileSystem(
            endpoint_override=host or None,
            scheme=scheme,
            region=region,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=SILENCE_TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            **options,
        )


_SAID = {
    "env": "the environment",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the AWS configuration file",
    "iam-role": "this machine's role",
    "container-role": "this container's role",
    "assume-role": "an assumed role",
}
_known: dict[tuple[Any, ...], Access] = {}
_knowing = threading.Lock()


def access() -> Access:
    """Return this process's way to the server that the environment names, made once.

    Raises:
        StorageError: an address that is not one.
    """
    address = Address.from_environment()
    # a child made by fork must not use its parent's connections; a changed environment is another identity
    key = (os.getpid(), address, *(os.environ.get(name) for name in SOURCES))
    with _knowing:
        if key not in _known:
            _known[key] = Access(address)
        return _known[key]
