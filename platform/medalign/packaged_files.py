"""Files of installed packages, found without importing the package."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path


def packaged_file(package: str, file: str) -> Path:
    """Return a file of an installed package.

    Args:
        package: the distribution's name, as pip has it.
        file: its path below site-packages.

    Raises:
        FileNotFoundError: the package is not installed, or has no such file.
    """
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(f"the package {package} is not installed") from error
    if not path.is_file():
        raise FileNotFoundError(f"the package {package} has no {file}")
    return path
