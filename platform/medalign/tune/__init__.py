"""Sweeps: many trials of a recipe, sampled, scheduled, recorded in a ledger and explained. The only door to ray.tune.

`from medalign import tune` gives this room, which may be called: tune("few_shot/sweep", ["tune.trials=8"]).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from medalign.tune.result import SweepResult
from medalign.tune.sweep import resume, tune

__all__ = ["SweepResult", "resume", "tune"]


class _Callable(ModuleType):
    """A module that may be called as its function of the same name."""

    def __call__(
        self, recipe: str, overrides: Sequence[str] = (), *, progress: Callable[[str], None] = lambda line: None
    ) -> SweepResult:
        return tune(recipe, overrides, progress=progress)


sys.modules[__name__].__class__ = _Callable
