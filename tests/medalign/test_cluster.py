"""Starting Ray: once, quietly, and joining a cluster where one is named."""

import os
import subprocess
import sys

import pytest

from medalign import cluster
from medalign.errors import CorpusError, MedAlignError, UserError


def test_a_connected_process_is_left_alone(ray_local):
    import ray

    before = ray.get_runtime_context().get_node_id()
    cluster.ensure_ray()
    assert ray.get_runtime_context().get_node_id() == before
    assert ray.cluster_resources()["CPU"] == 4


def test_a_named_cluster_is_joined_and_the_environment_is_set(ray_local):
    import ray

    code = (
        "from medalign import cluster; import os, ray; cluster.ensure_ray(); "
        "print(ray.get_runtime_context().gcs_address, os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    address = ray.get_runtime_context().gcs_address
    environment = {key: value for key, value in os.environ.items() if key not in cluster.ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [address, "0"], done.stderr[-2000:]


def test_our_own_error_is_found_under_what_ray_wraps_it_in(ray_local):
    import ray

    @ray.remote
    def fail(own):
        try:
            raise KeyError("CANARY^JANE")
        except KeyError as error:
            if own:
                raise CorpusError("no such corpus.") from error
            raise

    for own, expected in ((True, "no such corpus."), (False, "reading failed in a task (KeyError); see Ray's logs.")):
        with pytest.raises(ray.exceptions.RayTaskError) as caught:
            ray.get(fail.remote(own))
        found = cluster.own_error(caught.value, doing="reading")
        assert isinstance(found, MedAlignError)
        assert str(found) == expected


def test_what_a_cluster_may_grow_to_is_told_by_its_head(ray_local, monkeypatch):
    assert cluster.most_resources()["CPU"] == 4
    monkeypatch.setenv(cluster.MOST, '{"CPU": 96, "GPU": 8}')
    found = cluster.most_resources()
    assert (found["CPU"], found["GPU"]) == (96, 8)
    monkeypatch.setenv(cluster.MOST, "many")
    with pytest.raises(UserError, match="MEDALIGN_CLUSTER_MOST=many: must be JSON"):
        cluster.most_resources()
