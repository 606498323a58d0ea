"""Planned crashes, for tests: MEDALIGN_FAULT="ckpt.after_stage:2" ends the process at that point's second visit.

    MEDALIGN_FAULT = POINT[:VISIT][@RANK][=ACTION][, ...]

VISIT counts from 1, the default. RANK limits a fault to one process of a run (by its environment's RANK). ACTION is
`exit`, the default: os._exit(137), as a killed process ends, no cleanup runs; or `full`: OSError(ENOSPC), a full disk.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from medalign.errors import UserError

EXIT_CODE = 137  # 128 + SIGKILL
_FORM = re.compile(r"(?P<point>[a-z_.]+)(:(?P<visit>[1-9]\d*))?(@(?P<rank>\d+))?(=(?P<action>exit|full))?")


@dataclass(frozen=True)
class _Fault:
    point: str
    visit: int
    rank: str | None
    action: str


def fault(point: str) -> None:
    """Mark a point where a crash may be planned. Without a plan it does nothing."""
    if _plan:
        _meet(point)


def arm(text: str) -> None:
    """Replace the plan and forget all visits; an empty text plans nothing.

    Raises:
        UserError: the text does not read as a plan.
    """
    found = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        form = _FORM.fullmatch(word)
        if form is None:
            raise UserError(f"MEDALIGN_FAULT: {word!r} is not POINT[:VISIT][@RANK][=exit|full].")
        found.append(_Fault(form["point"], int(form["visit"] or 1), form["rank"], form["action"] or "exit"))
    _plan[:] = found
    _visits.clear()


def _meet(point: str) -> None:
    _visits[point] = _visits.get(point, 0) + 1
    for planned in _plan:
        is_here = planned.point == point and planned.visit == _visits[point]
        if is_here and planned.rank in (None, os.environ.get("RANK")):
            _ACTIONS[planned.action]()


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_ACTIONS: dict[str, Callable[[], None]] = {"exit": lambda: os._exit(EXIT_CODE), "full": _fill_disk}
_plan: list[_Fault] = []
_visits: dict[str, int] = {}
arm(os.environ.get("MEDALIGN_FAULT", ""))
