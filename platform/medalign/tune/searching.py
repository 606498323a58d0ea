"""What Tune asks and tells: it is given trials out of the sampler, and what happens to them goes to the ledger.

Every trial that Tune is given ends in the ledger exactly once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray.tune
from ray.tune.search import Searcher

from medalign.tune.ledger import Ledger
from medalign.tune.result import Report, State, TrialRecord
from medalign.tune.samplers import Sampler
from medalign.tune.settings import Tune


class Book:
    """Every trial of the sweep as it stands, written to the ledger as it changes.

    Attributes:
        trials: by number.
        ran_out: the sampler had no other point before all trials were drawn.
    """

    def __init__(
        self, ledger: Ledger, sampler: Sampler, known: Sequence[TrialRecord], settings: Tune, *, total: int
    ) -> None:
        self.trials = {trial.number: trial for trial in known}
        self.ran_out = False
        self._ledger, self._sampler, self._settings, self._total = ledger, sampler, settings, total
        self._again = [trial for trial in known if trial.state is None]
        self._attempts: dict[int, dict[str, Any]] = {}

    def next(self) -> TrialRecord | None:
        """Return the next trial to run: one that a former driver left unfinished, else a new one."""
        if self._again:
            return self._again.pop(0)
        number = len(self.trials)
        if number >= self._total or self.ran_out:
            return None
        point = self._sampler.ask(number)
        if point is None:
            self.ran_out = True
            self._ledger.write("note", text=f"the space has no more than {number} configurations.")
            return None
        self.trials[number] = TrialRecord(number=number, point=point)
        self._ledger.write("sampled", trial=number, point=point)  # before it runs, so that none is sampled twice
        return self.trials[number]

    def started(self, number: int, *, host: str = "") -> None:
        """Note that a trial starts, or starts again."""
        attempt = self.trials[number].attempts + 1
        self.trials[number] = replace(self.trials[number], attempts=attempt, reports=())
        self._ledger.write("started", trial=number, attempt=attempt)

    def reported(self, number: int, said: Mapping[str, Any]) -> None:
        """Note a report."""
        trial = self.trials[number]
        report = Report(step=said["step"], values=dict(said["values"]), seconds=said["seconds"])
        self.trials[number] = replace(trial, reports=(*trial.reports, report), total_steps=said["total"])
        known = {name: said[name] for name in ("step", "worked", "total", "values")}
        self._ledger.write("report", trial=number, attempt=trial.attempts, seconds=round(report.seconds, 3), **known)

    def ended(self, number: int, state: State, *, reason: str = "", trace: str = "", seconds: float = 0.0) -> None:
        """Note how a trial ended; a second end of the same trial is none."""
        trial = self.trials[number]
        if trial.state is not None:
            return
        values = judged(trial.reports, self._settings)
        last = trial.reports[-1].values if trial.reports else {}
        if state == "completed" and not all(math.isfinite(last.get(m, math.nan)) for m in self._settings.metrics):
            state, reason = "failed", _no_figure(trial.reports, self._settings)
        self.trials[number] = replace(trial, state=state, reason=reason, values=values, seconds=seconds)
        more = {"trace": trace} if trace else {}
        self._ledger.write(
            "ended", trial=number, state=state, reason=reason, values=values, seconds=round(seconds, 3), **more
        )
        self._sampler.tell(self.trials[number])


def judged(reports: Sequence[Report], settings: Tune) -> dict[str, float]:
    """Return the figures that a trial is judged by.

    Of a few-shot trial the last report: no epoch is chosen. Of a training the report whose checkpoint is the best.
    """
    if not reports:
        return {}
    if settings.few_shot is not None:
        return dict(reports[-1].values)
    name, sign = settings.metrics[0], 1 if settings.modes[0] == "max" else -1
    finite = [report for report in reports if math.isfinite(report.values.get(name, math.nan))]
    return dict(max(finite, key=lambda report: sign * report.values[name]).values) if finite else {}


def _no_figure(reports: Sequence[Report], settings: Tune) -> str:
    names = ", ".join(settings.metrics)
    if not reports:
        return f"it ended without reporting {names}."
    return f"{names}: not finite at step {reports[-1].step}."


class LedgerSearcher(Searcher):
    """Gives Tune the trials of a book. It keeps no state of its own and is never saved."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's number and point."""
        trial = self._book.next()
        if trial is None:
            return Searcher.FINISHED
        return {"trial": trial.number, "point": json.dumps(trial.point)}  # text: Tune would take lists apart

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: the callback tells the book, and knows why."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse: a sweep is resumed from its ledger.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a sweep is resumed from its ledger.")


class ToLedger(ray.tune.Callback):
    """Takes what happens to trials to the book."""

    def __init__(self, book: Book, settings: Tune, progress: Callable[[str], None]) -> None:
        self._book, self._settings, self._progress = book, settings, progress

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note a start."""
        self._book.started(trial.config["trial"])

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Note a report; the last word of a trial is none."""
        if "finished" not in result and "failure" not in result:
            self._book.reported(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note an end that Tune knows of: the trial's own, or one that the scheduler wished."""
        number, last = trial.config["trial"], trial.last_result or {}
        seconds = float(last.get("seconds", 0.0))
        if "failure" in last:
            self._book.ended(number, "failed", reason=last["failure"], trace=last.get("trace", ""), seconds=seconds)
        elif "finished" in last or last.get("step", 0) >= last.get("total", math.inf):
            self._book.ended(number, "completed", seconds=seconds)
        else:
            kind = type(self._settings.scheduler).__name__
            self._book.ended(number, "stopped", reason=f"{kind} after step {last.get('step')}.", seconds=seconds)
        self._tell(number)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note that a trial's worker died too often."""
        number = trial.config["trial"]
        times = self._book.trials[number].attempts
        seconds = float((trial.last_result or {}).get("seconds", 0.0))
        self._book.ended(number, "failed", reason=f"its worker died {times} times.", seconds=seconds)
        self._tell(number)

    def _tell(self, number: int) -> None:
        trial, name = self._book.trials[number], self._settings.metrics[0]
        figure = f"{name} {trial.values[name]:.4g}" if name in trial.values else trial.reason
        self._progress(f"trial {number}: {trial.state}, {figure} ({trial.seconds:.1f} s)")
