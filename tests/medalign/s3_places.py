"""What the tests of storage share: a real S3 server, a bucket of its own for each module, a proxy in front of it."""

import contextlib

import pytest
from fault_proxy import FaultProxy

from medalign.storage import seaweedfs

BUCKET = "medalign"


@contextlib.contextmanager
def serving():
    """Yield a server whose address and keys are in the environment."""
    with seaweedfs.serve(buckets=(BUCKET,)) as server, seaweedfs.in_environment(server):
        yield server


@contextlib.contextmanager
def behind_proxy(server, *rules, seed=0):
    """Yield a proxy that everything goes through; it breaks what the rules say."""
    with FaultProxy(server.url, rules=rules, seed=seed) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
