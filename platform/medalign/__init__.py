"""MedAlign's Ray layer. Its functions, each also a command: `from medalign import prepare, train, evaluate, report`.

`import medalign` loads nothing else; a function's module is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medalign.data.prepare import prepare
    from medalign.data.show import show
    from medalign.data.validate import validate
    from medalign.evaluation.annotated.task import evaluate_annotated
    from medalign.evaluation.embed import embed
    from medalign.evaluation.task import evaluate
    from medalign.exporting import export
    from medalign.launch import dry_run, train
    from medalign.reports.page import report

__all__ = [
    "dry_run",
    "embed",
    "evaluate",
    "evaluate_annotated",
    "export",
    "prepare",
    "report",
    "show",
    "train",
    "validate",
]

_HOMES = {
    "prepare": "medalign.data.prepare",
    "show": "medalign.data.show",
    "validate": "medalign.data.validate",
    "dry_run": "medalign.launch",
    "train": "medalign.launch",
    "evaluate": "medalign.evaluation.task",
    "evaluate_annotated": "medalign.evaluation.annotated.task",
    "embed": "medalign.evaluation.embed",
    "export": "medalign.exporting",
    "report": "medalign.reports.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
