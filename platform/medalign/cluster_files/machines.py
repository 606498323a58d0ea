"""Machines with GPUs: what AWS and Google Cloud rent, by GPU, and the labels by which Kubernetes nodes name one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine type.

    Attributes:
        name: as the provider writes it.
        gpus: GPUs of one, 0 for a machine of CPUs.
        cpus: virtual CPUs.
        memory_gib: memory.
        accelerator: on Google Cloud, a GPU that has to be attached to the machine type; else empty.
    """

    name: str
    gpus: int
    cpus: int
    memory_gib: int
    accelerator: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuLabels:
    """How the labels of Kubernetes nodes name a GPU.

    Attributes:
        products: values of nvidia.com/gpu.product, by NVIDIA's feature discovery.
        gke: value of cloud.google.com/gke-accelerator.
        karpenter: value of karpenter.k8s.aws/instance-gpu-name.
    """

    products: tuple[str, ...]
    gke: str
    karpenter: str


GPUS = {
    "T4": GpuLabels(products=("Tesla-T4",), gke="nvidia-tesla-t4", karpenter="t4"),
    "L4": GpuLabels(products=("NVIDIA-L4",), gke="nvidia-l4", karpenter="l4"),
    "A10G": GpuLabels(products=("NVIDIA-A10G",), gke="", karpenter="a10g"),
    "L40S": GpuLabels(products=("NVIDIA-L40S",), gke="", karpenter="l40s"),
    "A100-40": GpuLabels(products=("NVIDIA-A100-SXM4-40GB",), gke="nvidia-tesla-a100", karpenter="a100"),
    "A100-80": GpuLabels(products=("NVIDIA-A100-SXM4-80GB",), gke="nvidia-a100-80gb", karpenter="a100"),
    "H100": GpuLabels(products=("NVIDIA-H100-80GB-HBM3",), gke="nvidia-h100-80gb", karpenter="h100"),
    "H200": GpuLabels(products=("NVIDIA-H200",), gke="nvidia-h200-141gb", karpenter="h200"),
}


def _machine(name: str, gpus: int, cpus: int, memory_gib: int, accelerator: str = "") -> Machine:
    return Machine(name=name, gpus=gpus, cpus=cpus, memory_gib=memory_gib, accelerator=accelerator)


AWS = {
    "T4": (_machine("g4dn.2xlarge", 1, 8, 32), _machine("g4dn.12xlarge", 4, 48, 192)),
    "L4": (_machine("g6.2xlarge", 1, 8, 32), _machine("g6.12xlarge", 4, 48, 192), _machine("g6.48xlarge", 8, 192, 768)),
    "A10G": (
        _machine("g5.2xlarge", 1, 8, 32),
        _machine("g5.12xlarge", 4, 48, 192),
        _machine("g5.48xlarge", 8, 192, 768),
    ),
    "L40S": (
        _machine("g6e.2xlarge", 1, 8, 64),
        _machine("g6e.12xlarge", 4, 48, 384),
        _machine("g6e.48xlarge", 8, 192, 1536),
    ),
    "A100-40": (_machine("p4d.24xlarge", 8, 96, 1152),),
    "A100-80": (_machine("p4de.24xlarge", 8, 96, 1152),),
    "H100": (_machine("p5.48xlarge", 8, 192, 2048),),
    "H200": (_machine("p5en.48xlarge", 8, 192, 2048),),
}
GCP = {
    "T4": (
        _machine("n1-standard-8", 1, 8, 30, "nvidia-tesla-t4"),
        _machine("n1-standard-16", 2, 16, 60, "nvidia-tesla-t4"),
        _machine("n1-standard-32", 4, 32, 120, "nvidia-tesla-t4"),
    ),
    "L4": (
        _machine("g2-standard-12", 1, 12, 48),
        _machine("g2-standard-24", 2, 24, 96),
        _machine("g2-standard-48", 4, 48, 192),
        _machine("g2-standard-96", 8, 96, 384),
    ),
    "A100-40": (
        _machine("a2-highgpu-1g", 1, 12, 85),
        _machine("a2-highgpu-2g", 2, 24, 170),
        _machine("a2-highgpu-4g", 4, 48, 340),
        _machine("a2-highgpu-8g", 8, 96, 680),
    ),
    "A100-80": (
        _machine("a2-ultragpu-1g", 1, 12, 170),
        _machine("a2-ultragpu-2g", 2, 24, 340),
        _machine("a2-ultragpu-4g", 4, 48, 680),
        _machine("a2-ultragpu-8g", 8, 96, 1360),
    ),
    "H100": (_machine("a3-highgpu-8g", 8, 208, 1872),),
    "H200": (_machine("a3-ultragpu-8g", 8, 224, 2952),),
}
RENTED = {"aws": AWS, "gcp": GCP}
HEADS = {"aws": _machine("m6i.xlarge", 0, 4, 16), "gcp": _machine("n2-standard-4", 0, 4, 16)}
CPU_POOLS = {"aws": _machine("m6i.4xlarge", 0, 16, 64), "gcp": _machine("n2-standard-16", 0, 16, 64)}


def choose(provider: str, gpu_type: str, gpus: int) -> Machine:
    """Return the largest machine whose GPUs divide `gpus`: exactly so many GPUs, in as few nodes as can be.

    Raises:
        ValueError: the provider has no machine with such GPUs, or none that divides their number.
    """
    rented = RENTED[provider]
    if gpu_type not in rented:
        raise ValueError(f"gpu_type must be one of {', '.join(rented)} on {provider}, got {gpu_type!r}.")
    fitting = [machine for machine in rented[gpu_type] if gpus % machine.gpus == 0]
    if not fitting:
        least = min(machine.gpus for machine in rented[gpu_type])
        raise ValueError(f"gpus must be a multiple of {least} for {gpu_type} on {provider}, got {gpus}.")
    return max(fitting, key=lambda machine: machine.gpus)
