"""The checksum by which numba's cache on disk follows every source of a kernel, not only the entry point's file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from zlib import crc32


@cache
def checksum(*files: str) -> int:
    """Return a sum over some files and over every compiled*.py beside them; an entry point closes over it.

    numba looks at the date of the file that holds an entry point, and at the values it closes over, but not at the
    files of what it calls: without this, an edit there would go on running the old code.
    """
    beside = {path for file in files for path in Path(file).parent.glob("compiled*.py")}
    return crc32(b"".join(path.read_bytes() for path in sorted(beside | {Path(file) for file in files})))
