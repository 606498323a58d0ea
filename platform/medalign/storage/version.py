"""A version of a file: what a conditional write is a condition on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Version:
    """A file's content, and which version of the file it is.

    Attributes:
        data: the content.
        tag: names this version, for a conditional write.
        age: seconds since it was written, by the store's own clock.
    """

    data: bytes
    tag: str
    age: float
