"""What a cluster should be: its provider, its GPUs, its pool of CPUs, its image and its patience."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from medalign.cluster_files import machines

PLACED = {"aws": ("region", "machine_image"), "gcp": ("region", "project", "machine_image")}
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
IMAGE = re.compile(r"[a-z0-9][\w.\-/:]*(?P<pin>:[\w][\w.\-]*|@sha256:[0-9a-f]{64})")
MOST = (
    "MEDALIGN_CLUSTER_MOST"  # in the head's environment: plans are checked against it, as the cluster grows on demand
)
DRAIN_MARGIN_S = 15  # between the end of a drain and the kill: the checkpoint's last bytes, and Ray's own end


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """A cluster: a head that runs no work, a pool of CPU nodes for data, and GPU nodes that come and go.

    Attributes:
        provider: who runs the nodes: aws and gcp by `ray up`, kuberay on any Kubernetes.
        gpus: most GPUs at once.
        gpu_type: T4, L4, A10G, L40S, A100-40, A100-80, H100 or H200.
        image: the container image, pinned by a tag other than latest, or by a digest.
        name: the cluster's; lower case, digits and hyphens.
        spot: GPU nodes on spot capacity, with the same nodes on demand where there is none.
        cpu_nodes: most nodes of the CPU pool, 0 leaves data to the GPU nodes.
        idle_minutes: after which a node that does nothing is given back.
        region: of aws and gcp.
        zone: of aws and gcp; empty takes the region's first (a on aws, a on gcp).
        project: of gcp.
        machine_image: the virtual machine's image (an AMI, or projects/P/global/images/I), with Docker and, for GPUs,
            NVIDIA's driver and container toolkit. Ray's own default is years old.
        role: an instance profile (aws) or service account (gcp, kuberay) of all nodes. It must reach the data; on aws
            and gcp it must also be allowed to start machines with this role, since the head has it, too. Empty: Ray
            makes one for the head, and the other nodes have none.
        disk_gb: of a virtual machine.
        namespace: of kuberay.
        gpus_per_node: of kuberay.
        cpus_per_gpu: of kuberay: CPUs of a GPU pod, for its worker, decoding and the solver.
        memory_gib_per_gpu: of kuberay.
        object_store_share: of a pod's memory that is Ray's object store, mounted at /dev/shm.
        credentials_secret: of kuberay: an existing secret whose keys become environment variables, such as AWS_*.
        grace_seconds: that a pod has between the notice and its end; the checkpoint must fit.
        recipe: of the RayJob of kuberay, with `overrides`.
        overrides: key=value words, of which run.uri and data.corpus must be given with `recipe`.
        deadline_hours: after which the RayJob is ended.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    provider: Literal["aws", "gcp", "kuberay"]
    gpus: int
    gpu_type: str = "L4"
    image: str
    name: str = "medalign"
    spot: bool = False
    cpu_nodes: int = 4
    idle_minutes: int = 5
    region: str = ""
    zone: str = ""
    project: str = ""
    machine_image: str = ""
    role: str = ""
    disk_gb: int = 200
    namespace: str = "default"
    gpus_per_node: int = 1
    cpus_per_gpu: int = 8
    memory_gib_per_gpu: int = 32
    object_store_share: float = 0.3
    credentials_secret: str = ""
    grace_seconds: int = 120
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    deadline_hours: int = 72

    def __post_init__(self) -> None:
        if self.provider not in ("aws", "gcp", "kuberay"):
            raise ValueError(f"provider must be aws, gcp or kuberay, got {self.provider!r}.")
        for name, low in (("gpus", 1), ("cpu_nodes", 0), ("idle_minutes", 1), ("disk_gb", 50), ("gpus_per_node", 1)):
            _at_least(low, name, getattr(self, name))
        for name in ("cpus_per_gpu", "memory_gib_per_gpu", "deadline_hours"):
            _at_least(1, name, getattr(self, name))
        _at_least(2 * DRAIN_MARGIN_S, "grace_seconds", self.grace_seconds)
        if not 0 < self.object_store_share <= 0.6:
            raise ValueError(f"object_store_share must be in (0, 0.6], got {self.object_store_share}.")
        for key in ("name", "namespace"):
            if not NAME.fullmatch(getattr(self, key)):
                raise ValueError(
                    f"{key} must be lower case letters, digits and hyphens, 40 at most, got {getattr(self, key)!r}."
                )
        _check_image(self.image)
        for key in PLACED.get(self.provider, ()):
            if not getattr(self, key):
                raise ValueError(f"{key} must be given for {self.provider}.")
        if self.gpu_type not in machines.GPUS:
            raise ValueError(f"gpu_type must be one of {', '.join(machines.GPUS)}, got {self.gpu_type!r}.")
        if self.provider == "kuberay":
            self._check_kuberay()
        else:
            machines.choose(self.provider, self.gpu_type, self.gpus)

    def _check_kuberay(self) -> None:
        if self.gpus % self.gpus_per_node:
            raise ValueError(f"gpus must be a multiple of gpus_per_node = {self.gpus_per_node}, got {self.gpus}.")
        given = {word.partition("=")[0] for word in self.overrides if "=" in word}
        missing = [key for key in ("run.uri", "data.corpus") if key not in given]
        if self.recipe and missing:
            raise ValueError(f"recipe needs {' and '.join(f'{key}=URI' for key in missing)} beside it.")

    @property
    def drain_seconds(self) -> int:
        """Seconds that a node may still work after it was told to go."""
        return self.grace_seconds - DRAIN_MARGIN_S


def _check_image(image: str) -> None:
    found = IMAGE.fullmatch(image)
    if found is None or found["pin"] == ":latest":
        raise ValueError(f"image must be pinned by a tag other than latest, or by @sha256:..., got {image!r}.")


def _at_least(low: int, name: str, value: int) -> None:
    if not value >= low:
        raise ValueError(f"{name} must be >= {low}, got {value}.")
