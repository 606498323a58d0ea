"""Versions and their fit: Python, the packages that MedAlign requires, CUDA's build of PyTorch, torchvision."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from medalign.doctor.finding import Finding, broken, fine, note

LOWEST = (3, 11)
SHOWN = ("torch", "ray", "deepspeed", "transformers", "pyarrow", "numpy", "pydantic")
DRIVER = Path("/proc/driver/nvidia/version")
IMPORT_S = 60


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Check Python's version."""
    shown = ".".join(map(str, version))
    if tuple(version[:2]) < LOWEST:
        return broken("python", shown, "install Python 3.11 or newer and make the environment again.")
    return fine("python", shown)


def packages(requirements: Iterable[str] | None = None, installed: Mapping[str, str] | None = None) -> list[Finding]:
    """Check every package that MedAlign requires against what is installed; a line for each that does not fit.

    Args:
        requirements: as in a package's metadata; MedAlign's own if None.
        installed: versions by name; those of this environment if None.
    """
    found, shown = [], []
    for line in metadata.requires("medalign") or () if requirements is None else requirements:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        have = installed.get(wanted.name) if installed is not None else _version(wanted.name)
        fix = f"pip install '{wanted.name}{wanted.specifier}'"
        if have is None:
            found.append(broken(wanted.name, "not installed", fix))
        elif not wanted.specifier.contains(Version(have), prereleases=True):
            found.append(broken(wanted.name, f"{have}, MedAlign needs {wanted.specifier}", fix))
        elif wanted.name in SHOWN:
            shown.append(f"{wanted.name} {have}")
    return [*([fine("packages", ", ".join(shown))] if shown else []), *found]


def accelerator(*, driver: Path = DRIVER, cuda: str | None = None, devices: int | None = None) -> Finding:
    """Check that a machine with an NVIDIA driver has a PyTorch that sees its GPUs.

    Args:
        driver: the file that the driver shows.
        cuda: the CUDA version that PyTorch was built for, "" for none; asked of PyTorch if None.
        devices: GPUs that PyTorch sees; asked if None.
    """
    if cuda is None or devices is None:
        import torch

        cuda, devices = torch.version.cuda or "", torch.cuda.device_count()
    has_driver = driver.exists()
    if not has_driver:
        built = f"PyTorch is built for CUDA {cuda}" if cuda else "PyTorch is a CPU build"
        return fine("gpu", f"none here; {built}")
    if not cuda:
        fix = "install a build of PyTorch for this driver's CUDA, from the index that pytorch.org names."
        return broken("gpu", "an NVIDIA driver, but PyTorch is a CPU build", fix)
    if not devices:
        fix = "compare `nvidia-smi` with torch.version.cuda: the driver must be as new; then CUDA_VISIBLE_DEVICES."
        return broken("gpu", f"an NVIDIA driver and CUDA {cuda}, but PyTorch sees no GPU", fix)
    return fine("gpu", f"{devices} seen by PyTorch, CUDA {cuda}")


def torchvision() -> Finding:
    """Check that torchvision, where it is installed, can be imported: a broken one breaks transformers and timm too."""
    if importlib.util.find_spec("torchvision") is None:
        return fine("torchvision", "not installed, and not needed")
    command = [sys.executable, "-c", "import torchvision; print(torchvision.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_S)
    except subprocess.TimeoutExpired:
        return note("torchvision", f"its import took more than {IMPORT_S} s", "try it again on a quiet machine.")
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["no message"])[-1]
        fix = f"pip uninstall torchvision, or install the one for torch {_version('torch')}."
        return broken("torchvision", f"cannot be imported ({cause[:120]}); transformers fails with it", fix)
    return fine("torchvision", done.stdout.strip())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
