"""A sweep over a subject that costs nothing: what samplers, scheduler, driver and ledger do is the real thing.

python sweep_rig.py SPEC.json runs one in a process of its own, to be killed; see `spec`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medalign import config
from medalign.tune import sweep
from medalign.tune.exchange import Talk
from medalign.tune.packing import Demand

STEPS = 8


def value(x: float, step: int = STEPS) -> float:
    """The figure of a point after some steps: a pure function, best at 0.3."""
    return (1 - (x - 0.3) ** 2) * step / STEPS


@dataclass
class RigWork:
    """A trial reports `value` STEPS times; `plan` says which ones go wrong, by number."""

    folder: str
    pace: float = 0.0
    plan: dict[int, str] = field(default_factory=dict)

    def run(self, number: int, point: Mapping[str, Any], talk: Talk) -> None:
        """Run a trial."""
        fate, at = self.plan.get(number, ""), Path(self.folder, "pids", str(number))
        at.parent.mkdir(parents=True, exist_ok=True)
        first = not at.exists()
        at.write_text(str(os.getpid()))
        if fate == "silent":
            return
        for step in range(1, STEPS + 1):
            time.sleep(self.pace)
            if fate == "raise" and step == 3:
                raise ZeroDivisionError("planted")
            if fate == "die" or (fate == "die once" and first and step == 3):
                os.kill(os.getpid(), signal.SIGKILL)
            figure = float("nan") if fate == "nan" and step >= 3 else value(point["x"], step)
            if not talk(step, {"score": figure, "cost": float(step)}, total=STEPS, worked=step):
                return


class RigSubject:
    """What a sweep asks of a recipe, answered by nothing."""

    demand = Demand()

    def __init__(self, settings: Any, work: RigWork) -> None:
        self._settings, self._work = settings, work

    def check(self, space: Any) -> None:
        """Take everything."""

    def check_metrics(self) -> None:
        """Take everything."""

    def total_steps(self, space: Any) -> int:
        """Return STEPS."""
        return STEPS

    def work(self) -> RigWork:
        """Return it."""
        return self._work

    def best_recipe(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point."""
        return dict(point)

    def export(self, work: Any, point: Mapping[str, Any], number: int, to: str) -> list[str]:
        """Write nothing."""
        return []


def document(uri: str, **settings: Any) -> config.Document:
    """Return a recipe of the rig."""
    search = settings.pop("search", {"x": {"uniform": [0, 1]}})
    values = {"tune": {"uri": uri, "metric": "score", "trials": 6, "concurrent": 1} | settings, "search": search}
    return config.loads(yaml.safe_dump(values), source="rig.yaml")


def run(recipe: config.Document, work: RigWork, *, told: Any = lambda line: None) -> Any:
    """Run a sweep over the rig, or go on with it."""
    before = sweep.open_subject
    sweep.open_subject = lambda document, settings: RigSubject(settings, work)  # type: ignore[assignment]
    try:
        return sweep._run(recipe, told)
    finally:
        sweep.open_subject = before


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run what a file says: {"uri": ..., "folder": ..., "pace": seconds, "settings": {...}}."""
    said = json.loads(Path(sys.argv[1]).read_text())
    work = RigWork(folder=said["folder"], pace=said["pace"])
    found = run(document(said["uri"], **said["settings"]), work, told=_tell)
    _tell(json.dumps({"best": found.best, "value": found.value, "counted": found.counted()}))


if __name__ == "__main__":
    main()
