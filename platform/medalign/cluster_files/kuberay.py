"""Objects for KubeRay 1.7 and later: RayCluster and RayJob, a network policy, disruption budgets."""

from __future__ import annotations

import shlex
from importlib import metadata
from typing import Any

from medalign.cluster_files import pods
from medalign.cluster_files.settings import ClusterSettings

PREFERRED = 10  # of two groups with the same resources, the one with the higher priority is started first
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
STORE_PORTS = (443, 6443)  # object stores, and the server of Kubernetes for the autoscaler
LINK_LOCAL = "169.254.0.0/16"  # where a cloud gives credentials to a pod's service account
CLUSTER_RETRIES, SUBMITTER_RETRIES = 3, 4


def ray_cluster(settings: ClusterSettings) -> dict[str, Any]:
    """Return a cluster that stays, for `medalign submit`."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(settings, settings.name),
        "spec": _cluster_spec(settings),
    }


def ray_job(settings: ClusterSettings) -> dict[str, Any]:
    """Return a cluster that comes with one run and goes with it; a run that failed goes on in a new cluster."""
    words = ["medalign", "train", settings.recipe, *settings.overrides]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(settings, f"{settings.name}-run"),
        "spec": {
            "entrypoint": shlex.join(words),  # asks for no CPU, so it runs on the head
            "runtimeEnvYAML": 'env_vars:\n  TOKENIZERS_PARALLELISM: "false"\n',
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": SUBMITTER_RETRIES},
            "submitterPodTemplate": pods.submitter_pod(settings),
            "backoffLimit": CLUSTER_RETRIES,
            "activeDeadlineSeconds": settings.deadline_hours * 3600,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,  # to read logs
            "rayClusterSpec": _cluster_spec(settings),
        },
    }


def network_policy(settings: ClusterSettings) -> dict[str, Any]:
    """Return who may speak to whom: the pods to each other, the operator to the head, everybody to object stores."""
    own = {"podSelector": {"matchLabels": pods.labels(settings)}}
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(OPERATOR)}}
    dns = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
    out: list[dict[str, Any]] = [
        {"to": [own]},
        dns,
        {"ports": [{"protocol": "TCP", "port": port} for port in STORE_PORTS]},
    ]
    if settings.role:
        out.append({"to": [{"ipBlock": {"cidr": LINK_LOCAL}}]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(settings, settings.name),
        "spec": {
            "podSelector": {"matchLabels": pods.labels(settings)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own]}, {"from": [operator], "ports": [{"protocol": "TCP", "port": 8265}]}],
            "egress": out,
        },
    }


def disruption_budgets(settings: ClusterSettings) -> list[dict[str, Any]]:
    """Return what an upgrade of nodes may take: never the head, and GPU pods one by one."""
    nodes = settings.gpus // settings.gpus_per_node
    # minAvailable, since maxUnavailable needs an owner that can be scaled, which a RayCluster is not
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": _metadata(settings, f"{settings.name}-{part}"),
            "spec": {"minAvailable": least, "selector": {"matchLabels": pods.labels(settings, part)}},
        }
        for part, least in (("head", 1), ("gpu", max(1, nodes - 1)))
    ]


def _metadata(settings: ClusterSettings, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": settings.namespace, "labels": pods.labels(settings)}


def _cluster_spec(settings: ClusterSettings) -> dict[str, Any]:
    return {
        "rayVersion": metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": settings.idle_minutes * 60,
            "upscalingMode": "Default",
            "resources": {name: {"cpu": "500m", "memory": "1Gi"} for name in ("requests", "limits")},
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "num-cpus": "0",
                "num-gpus": "0",
                "dashboard-host": "0.0.0.0",  # of the pod; the network policy and the token guard it  # noqa: S104
                "object-store-memory": str(pods.object_store_bytes(settings, pods.HEAD_GIB)),
            },
            "template": pods.head_pod(settings),
        },
        "workerGroupSpecs": _groups(settings),
    }


def _groups(settings: ClusterSettings) -> list[dict[str, Any]]:
    groups = []
    if settings.cpu_nodes:
        groups.append(_group(settings, "data", pods.data_pod(settings), most=settings.cpu_nodes, gib=pods.DATA_GIB))
    nodes = settings.gpus // settings.gpus_per_node
    memory = settings.memory_gib_per_gpu * settings.gpus_per_node
    for spot in (True, False) if settings.spot else (False,):
        name = "gpu-spot" if spot else "gpu-on-demand"
        group = _group(settings, name, pods.gpu_pod(settings, spot=spot), most=nodes, gib=memory)
        groups.append({**group, "priority": PREFERRED if spot else 0})
    return groups


def _group(settings: ClusterSettings, name: str, template: dict[str, Any], *, most: int, gib: int) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {"object-store-memory": str(pods.object_store_bytes(settings, gib))},
        "template": template,
    }
