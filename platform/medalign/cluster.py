"""The Ray cluster of this process: join the one it belongs to, or start a quiet local one; a node's farewell."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from medalign.errors import MedAlignError, UserError

MOST = "MEDALIGN_CLUSTER_MOST"  # what the autoscaler may start, all in all
# Set before Ray starts, so that every worker inherits them; a value the user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # otherwise Ray reports usage to its makers
    "AWS_EC2_METADATA_DISABLED": "true",  # no request to 169.254.169.254 when no credentials are set
    "TOKENIZERS_PARALLELISM": "false",
    # an idle worker stays a minute, not a second: the next window wants it again, and one takes seconds to import
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


def ensure_ray(*, dashboard: bool = False, object_store_bytes: int | None = None) -> None:
    """Connect this process to Ray, once: a second call does nothing.

    RAY_ADDRESS (set inside a submitted job, or by the user) names a cluster to join. Without it a local one is
    started, with at least 4 logical CPUs: training workers ask for fractions, and data tasks need some left over.

    Args:
        dashboard: start the dashboard of a local cluster. Training needs it, since without its State API Ray never
            frees the CPUs of a killed training controller; preparing a corpus does not.
        object_store_bytes: size of a local cluster's object store; Ray's own choice (30 % of memory) if None.
    """
    import ray

    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        num_cpus=max(4, os.cpu_count() or 1),
        include_dashboard=dashboard,
        object_store_memory=object_store_bytes,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def most_resources() -> dict[str, float]:
    """Return what the connected cluster has, or may have once its autoscaler has started all that it may.

    Ray tells nobody what that is, so the head's environment does: MEDALIGN_CLUSTER_MOST='{"CPU": 96, "GPU": 8}', which
    `medalign cluster render` writes into its files and a submitted job inherits.

    Raises:
        UserError: the variable is not JSON of names and numbers.
    """
    import ray

    have, said = ray.cluster_resources(), os.environ.get(MOST, "{}")
    try:
        most = {str(name): float(amount) for name, amount in json.loads(said).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'{MOST}={said}: must be JSON of names and numbers, such as {{"CPU": 96}}.') from error
    return {name: max(have.get(name, 0.0), most.get(name, 0.0)) for name in {*have, *most}}


def drain(seconds: int, *, node: str = "") -> str:
    """Tell Ray that a node will be taken away, and wait until it has ended or its time is over; return its id.

    A run that has workers there saves, and goes on elsewhere. A Kubernetes pod calls this before it ends.

    Args:
        seconds: for which the node may still work.
        node: Ray's id of it; the one at this machine's address if empty.

    Raises:
        UserError: no cluster is named by RAY_ADDRESS, or the node is none of it.
        MedAlignError: Ray refuses.
    """
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise UserError("RAY_ADDRESS is not set: it names the cluster that the node belongs to, host:port.")
    compiled: Any = _raylet
    client = compiled.GcsClient(address=address)
    deadline = time.time() + seconds
    node = node or _node_here(client, address)
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
    accepted, why = client.drain_node(node, reason, "this node goes", int(deadline * 1000))
    if not accepted:
        raise MedAlignError(f"Ray does not let node {node} go: {why}")
    while time.time() < deadline and _is_alive(client, node):
        time.sleep(0.5)
    return node


def _node_here(client: Any, address: str) -> str:
    from ray.util import get_node_ip_address

    here = get_node_ip_address()
    found = [info for info in client.get_all_node_info().values() if info.node_manager_address == here]
    alive = [info.node_id.hex() for info in found if info.state == 0]
    if len(alive) != 1:
        raise UserError(f"{address}: {len(alive)} live nodes at {here}; name one by --node.")
    return alive[0]


def _is_alive(client: Any, node: str) -> bool:
    return any(info.node_id.hex() == node and info.state == 0 for info in client.get_all_node_info().values())


def use_token() -> None:
    """Let this process's requests carry the cluster's token where there is one; a mode that the user has set stays."""
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or Path.home().joinpath(".ray", "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def own_error(error: BaseException, *, doing: str) -> MedAlignError:
    """Return our own error that a task raised, however deep Ray has wrapped it.

    A foreign one is named without its text, which may quote what is in a file.

    Args:
        error: what Ray raised.
        doing: what failed, for the message: "preparing the corpus".
    """
    seen = error
    while True:
        # Ray's wrapper is an instance of the class it wraps too, but its text is a whole traceback: look inside first.
        inner = getattr(seen, "cause", None)
        if not isinstance(inner, BaseException) or inner is seen:
            if isinstance(seen, MedAlignError):
                return seen
            inner = seen.__cause__
        if inner is None:
            break
        seen = inner
    return MedAlignError(f"{doing} failed in a task ({type(seen).__name__}); see Ray's logs.")
