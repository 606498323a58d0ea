"""Pods of a Ray cluster on Kubernetes: the head, the data pool and the GPU nodes, hardened and sized."""

from __future__ import annotations

import json
from typing import Any

from medalign.cluster_files.machines import GPUS
from medalign.cluster_files.settings import MOST, ClusterSettings

HEAD_CPUS, HEAD_GIB = 4, 16
DATA_CPUS, DATA_GIB = 8, 32
SPOT_LABELS = {  # on any of these a node says that it is spot capacity
    "cloud.google.com/gke-spot": "true",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
}
CLUSTER, PART = "medalign/cluster", "medalign/part"  # of our own: KubeRay's services select by app.kubernetes.io/*
KEEP = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
USER_ID = 1000  # of the image


def labels(settings: ClusterSettings, part: str = "") -> dict[str, str]:
    """Return the labels by which policies find the pods of a cluster, or of one part of it."""
    return {CLUSTER: settings.name} | ({PART: part} if part else {})


def head_pod(settings: ClusterSettings) -> dict[str, Any]:
    """Return the head's template: never on spot, since a run cannot outlive it."""
    ports = {"gcs": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
    container = {
        **_container(settings, "ray-head", cpus=HEAD_CPUS, memory_gib=HEAD_GIB),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
    }
    # a job that is stopped gets as long for its checkpoint as a node that goes
    container["env"].append({"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(settings.drain_seconds)})
    cpus = settings.cpu_nodes * DATA_CPUS + settings.gpus * settings.cpus_per_gpu
    container["env"].append({"name": MOST, "value": json.dumps({"CPU": cpus, "GPU": settings.gpus})})
    return _template(settings, container, part="head", memory_gib=HEAD_GIB, terms=[_without_spot()])


def data_pod(settings: ClusterSettings) -> dict[str, Any]:
    """Return the template of the pool that reads and decodes; any capacity will do, its tasks are run again."""
    container = _container(settings, "ray-worker", cpus=DATA_CPUS, memory_gib=DATA_GIB)
    return _template(settings, container, part="data", memory_gib=DATA_GIB)


def gpu_pod(settings: ClusterSettings, *, spot: bool) -> dict[str, Any]:
    """Return the template of a GPU node, which announces its end to Ray before it goes."""
    gpus = settings.gpus_per_node
    memory = settings.memory_gib_per_gpu * gpus
    container = _container(settings, "ray-worker", cpus=settings.cpus_per_gpu * gpus, memory_gib=memory, gpus=gpus)
    drain = ["medalign", "cluster", "drain", "--seconds", str(settings.drain_seconds)]
    container["lifecycle"] = {"preStop": {"exec": {"command": drain}}}
    return _template(settings, container, part="gpu", memory_gib=memory, terms=_gpu_terms(settings, spot=spot))


def submitter_pod(settings: ClusterSettings) -> dict[str, Any]:
    """Return the template of the pod that submits a RayJob and follows its log."""
    container = {
        "name": "ray-job-submitter",
        "image": settings.image,
        "resources": _resources(cpus=1, memory_gib=2),
        "securityContext": _locked(),
    }
    spec = {**_hardened(settings), "containers": [container], "restartPolicy": "Never"}
    return {"metadata": {"labels": labels(settings, "submitter")}, "spec": spec}


def object_store_bytes(settings: ClusterSettings, memory_gib: int) -> int:
    """Return the size of a pod's object store, which is that of its /dev/shm as well."""
    return int(settings.object_store_share * memory_gib * 1024) * 1024**2


def _template(
    settings: ClusterSettings,
    container: dict[str, Any],
    *,
    part: str,
    memory_gib: int,
    terms: list[list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    size = f"{object_store_bytes(settings, memory_gib) // 1024**2}Mi"
    spec: dict[str, Any] = {
        **_hardened(settings),
        "automountServiceAccountToken": part == "head" or bool(settings.role),
        "containers": [container],
        "restartPolicy": "Never",  # the autoscaler, version 2, replaces pods itself
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
            {"name": "ray", "emptyDir": {}},
        ],
    }
    if terms:
        wanted = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": wanted}}
    if part == "gpu":
        spec["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        ]
    kept = {} if part == "data" else {"annotations": dict(KEEP)}
    return {"metadata": {"labels": labels(settings, part), **kept}, "spec": spec}


def _container(settings: ClusterSettings, name: str, *, cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": settings.image,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": _resources(cpus=cpus, memory_gib=memory_gib, gpus=gpus),
        "securityContext": _locked(),
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "ray", "mountPath": "/tmp/ray"}],  # noqa: S108
    }
    if settings.credentials_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.credentials_secret}}]
    return container


def _resources(*, cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    """Return requests that equal limits: a pod that is promised less than it uses is the first to be killed."""
    amounts: dict[str, str | int] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _hardened(settings: ClusterSettings) -> dict[str, Any]:
    context = {"runAsNonRoot": True, "runAsUser": USER_ID, "fsGroup": USER_ID}
    found: dict[str, Any] = {"securityContext": {**context, "seccompProfile": {"type": "RuntimeDefault"}}}
    return found | ({"serviceAccountName": settings.role} if settings.role else {})


def _locked() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _is(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


def _without_spot() -> list[dict[str, Any]]:
    return [_is(key, "NotIn", value) for key, value in SPOT_LABELS.items()]  # NotIn holds where the label is absent


def _gpu_terms(settings: ClusterSettings, *, spot: bool) -> list[list[dict[str, Any]]]:
    """Return terms of which a node must meet one: the GPU and the capacity, as each kind of Kubernetes labels them."""
    gpu = GPUS[settings.gpu_type]
    gke, karpenter, eks = SPOT_LABELS
    kinds = [
        (gke, _is("cloud.google.com/gke-accelerator", "In", gpu.gke)) if gpu.gke else None,
        (karpenter, _is("karpenter.k8s.aws/instance-gpu-name", "In", gpu.karpenter)),
        (eks, _is("nvidia.com/gpu.product", "In", *gpu.products)),
    ]
    return [
        [named, *([_is(label, "In", SPOT_LABELS[label])] if spot else _without_spot())]
        for label, named in filter(None, kinds)
    ]
