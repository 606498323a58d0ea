"""Which of the optional paths of the solvers can run here."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def compiled_available() -> bool:
    """Return whether numba is installed; it is not imported, which takes a second."""
    return find_spec("numba") is not None
