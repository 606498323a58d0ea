"""GPUs that a plan knows: the memory a process can use, and the peak of dense bfloat16 matrix products."""

from __future__ import annotations

from dataclasses import dataclass

from medalign.errors import UserError

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as it is given to `--gpu`.
        memory: bytes that a process can use; a little less than the name says.
        peak: dense bfloat16 operations a second, with float32 accumulation; no sparsity.
        peak_fp32: float32 operations a second, TF32 where the kind has it and PyTorch is told to use it.
        source: of the figures.
    """

    name: str
    memory: int
    peak: float
    peak_fp32: float
    source: str


_AMPERE = "NVIDIA A100 Tensor Core GPU data sheet"
_HOPPER = "NVIDIA H100 Tensor Core GPU data sheet, figures without sparsity"
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="a100-40gb", memory=int(39.4 * GIB), peak=312e12, peak_fp32=19.5e12, source=_AMPERE),
        Gpu(name="a100-80gb", memory=int(79.1 * GIB), peak=312e12, peak_fp32=19.5e12, source=_AMPERE),
        Gpu(name="h100-80gb", memory=int(79.1 * GIB), peak=989e12, peak_fp32=67e12, source=_HOPPER),
        Gpu(
            name="h200-141gb",
            memory=int(139.8 * GIB),
            peak=989e12,
            peak_fp32=67e12,
            source="NVIDIA H200 Tensor Core GPU data sheet, figures without sparsity",
        ),
        Gpu(
            name="l40s-48gb",
            memory=int(44.4 * GIB),
            peak=362e12,
            peak_fp32=91.6e12,
            source="NVIDIA L40S data sheet, figures without sparsity",
        ),
        Gpu(
            name="l4-24gb",
            memory=int(22.0 * GIB),
            peak=121e12,
            peak_fp32=30.3e12,
            source="NVIDIA L4 data sheet, figures without sparsity",
        ),
        Gpu(
            name="a10-24gb",
            memory=int(22.0 * GIB),
            peak=125e12,
            peak_fp32=31.2e12,
            source="NVIDIA A10 data sheet, figures without sparsity",
        ),
    )
}


def find_gpu(name: str) -> Gpu:
    """Return the GPU of a name.

    Raises:
        UserError: no such one; the message lists those there are.
    """
    if name not in GPUS:
        raise UserError(f"--gpu {name}: unknown; there is: {', '.join(GPUS)}.")
    return GPUS[name]
