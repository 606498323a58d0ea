"""Watching a run from inside the process that launched it: its figures as they come, and the wish to stop it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from medalign.tracking import Kind


class Watch(Protocol):
    """Sees what a run tells its trackers, and may ask it to save and end. It is called from one thread at a time."""

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """See the numbers of a step."""

    def flush(self) -> None:
        """Do what a tracker does."""

    def close(self, *, failed: bool = False) -> None:
        """Do what a tracker does."""

    def wants_stop(self) -> bool:
        """Tell whether the run shall save and end; asked before every step, so it is cheap."""
