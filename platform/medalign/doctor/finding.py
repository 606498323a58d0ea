"""A finding of the doctor: fine, worth knowing, or broken; what was seen, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: "fine"; "note", which a user should know but training works; "broken", which stops or endangers a run.
        seen: what was found.
        fix: what to do; "" where it is fine.
    """

    name: str
    state: Literal["fine", "note", "broken"]
    seen: str
    fix: str = ""

    def __post_init__(self) -> None:
        assert (self.state == "fine") == (not self.fix), "a finding that is not fine has a fix"


def fine(name: str, seen: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(name=name, state="fine", seen=seen)


def note(name: str, seen: str, fix: str) -> Finding:
    """Return a finding worth knowing."""
    return Finding(name=name, state="note", seen=seen, fix=fix)


def broken(name: str, seen: str, fix: str) -> Finding:
    """Return a finding that stops or endangers a run."""
    return Finding(name=name, state="broken", seen=seen, fix=fix)
