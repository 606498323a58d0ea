"""The YAML of `ray up`: a head that runs no work, CPU nodes for data, GPU nodes on spot with the same on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from medalign.cluster_files import machines
from medalign.cluster_files.machines import Machine
from medalign.cluster_files.settings import MOST, ClusterSettings

HEAD, DATA, SPOT, ON_DEMAND = "head", "data", "gpu-spot", "gpu-on-demand"
USER = "ubuntu"  # of the virtual machine; inside the container it is the image's own
TOKEN = "/home/ray/.ray/auth_token"  # where Ray looks for it by itself  # noqa: S105
PREFERRED = 10  # of two node types with the same resources, the one with the higher priority is started first
EXPORTS = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0"
NodeConfig = Callable[[ClusterSettings, Machine, bool], dict[str, Any]]


def autoscaler(settings: ClusterSettings) -> dict[str, Any]:
    """Return the document of `ray up`."""
    node_config = {"aws": _aws_node, "gcp": _gcp_node}[settings.provider]
    types = _node_types(settings, node_config)
    return {
        "cluster_name": settings.name,
        "max_workers": sum(
            kind["max_workers"] for name, kind in types.items() if name != ON_DEMAND or SPOT not in types
        ),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": settings.idle_minutes,
        "provider": _provider(settings),
        "auth": {"ssh_user": USER},
        "docker": {
            "image": settings.image,
            "container_name": "medalign",
            "pull_before_run": True,
            "run_options": ["--ulimit nofile=65536:65536", f"--stop-timeout {settings.grace_seconds}"],
        },
        "available_node_types": types,
        "head_node_type": HEAD,
        "file_mounts": {TOKEN: "~/.ray/auth_token"},
        "setup_commands": [f"grep -q RAY_AUTH_MODE ~/.bashrc || echo '{EXPORTS}' >> ~/.bashrc"],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": ["ray stop", _start_head(settings, types)],
        "worker_start_ray_commands": [
            "ray stop",
            f"{EXPORTS}; ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076",
        ],
    }


def _start_head(settings: ClusterSettings, types: dict[str, Any]) -> str:
    counted = [kind for name, kind in types.items() if name != SPOT]  # which stands for the same nodes
    most = {
        name: sum(kind["max_workers"] * kind["resources"].get(name, 0) for kind in counted) for name in ("CPU", "GPU")
    }
    # a job that is stopped gets as long for its checkpoint as a node that goes
    exports = f"{EXPORTS} RAY_JOB_STOP_WAIT_TIME_S={settings.drain_seconds} {MOST}='{json.dumps(most)}'"
    flags = "--head --port=6379 --object-manager-port=8076 --num-cpus=0 --num-gpus=0 --dashboard-host=127.0.0.1"
    return f"{exports}; ulimit -n 65536; ray start {flags} --autoscaling-config=~/ray_bootstrap_config.yaml"


def _node_types(settings: ClusterSettings, node_config: NodeConfig) -> dict[str, Any]:
    provider = settings.provider
    machine = machines.choose(provider, settings.gpu_type, settings.gpus)
    nodes = settings.gpus // machine.gpus
    head, pool = machines.HEADS[provider], machines.CPU_POOLS[provider]
    types = {HEAD: {"resources": {"CPU": 0}, "max_workers": 0, "node_config": node_config(settings, head, False)}}
    if settings.cpu_nodes:
        types[DATA] = _workers(settings.cpu_nodes, pool, node_config(settings, pool, False))
    if settings.spot:
        types[SPOT] = {**_workers(nodes, machine, node_config(settings, machine, True)), "priority": PREFERRED}
    types[ON_DEMAND] = {**_workers(nodes, machine, node_config(settings, machine, False)), "priority": 0}
    return types


def _workers(most: int, machine: Machine, config: dict[str, Any]) -> dict[str, Any]:
    resources = {"CPU": machine.cpus} | ({"GPU": machine.gpus} if machine.gpus else {})
    return {"resources": resources, "min_workers": 0, "max_workers": most, "node_config": config}


def _provider(settings: ClusterSettings) -> dict[str, Any]:
    if settings.provider == "aws":
        zone = settings.zone or f"{settings.region}a"
        # a spot machine cannot be stopped, only ended
        return {"type": "aws", "region": settings.region, "availability_zone": zone, "cache_stopped_nodes": False}
    zone = settings.zone or f"{settings.region}-a"
    return {"type": "gcp", "region": settings.region, "availability_zone": zone, "project_id": settings.project}


def _aws_node(settings: ClusterSettings, machine: Machine, spot: bool) -> dict[str, Any]:
    disk = {"VolumeSize": settings.disk_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    config: dict[str, Any] = {
        "InstanceType": machine.name,
        "ImageId": settings.machine_image,
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        # the container is one hop further than the machine
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    }
    if settings.role:
        config["IamInstanceProfile"] = {"Name": settings.role}
    if spot:
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        config["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return config


def _gcp_node(settings: ClusterSettings, machine: Machine, spot: bool) -> dict[str, Any]:
    start = {"diskSizeGb": settings.disk_gb, "sourceImage": settings.machine_image}
    config: dict[str, Any] = {
        "machineType": machine.name,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": start}],
    }
    if settings.role:
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        config["serviceAccounts"] = [{"email": settings.role, "scopes": scopes}]
    if machine.accelerator:
        config["guestAccelerators"] = [{"acceleratorType": machine.accelerator, "acceleratorCount": machine.gpus}]
    if spot:
        config["scheduling"] = {
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
            "onHostMaintenance": "TERMINATE",
            "automaticRestart": False,
        }
    elif machine.gpus:  # a machine with GPUs cannot be moved while it runs
        config["scheduling"] = {"onHostMaintenance": "TERMINATE", "automaticRestart": True}
    return config
