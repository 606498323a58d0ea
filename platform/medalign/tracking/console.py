"""Progress for eyes: a live bar on a terminal, one plain line per N steps elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from medalign.tracking import Kind
from medalign.tracking.events import sentence

VALIDATION = ("loss", "hamming", "matching_accuracy", "embedding_std")


class Console:
    """Shows step/total, images/s, the share of time spent waiting for data, matching accuracy, loss and time left.

    They are the values named images_per_second, data_wait (in [0, 1]), matching_accuracy and loss; those that a step
    lacks are left out. Validation and events are lines of their own; a validation shows those of VALIDATION.
    """

    def __init__(
        self, *, total_steps: int, step: int = 0, log_every: int = 10, console: rich.console.Console | None = None
    ):
        self._console = console or rich.console.Console(file=sys.stdout)
        self._total, self._first, self._log_every = total_steps, step, log_every
        self._began: float | None = None
        self._bar = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = _bar(self._console, total_steps)
            self._task = self._bar.add_task("training", total=total_steps, completed=step, numbers="starting")
            self._bar.start()

    def log(self, step: int, values: Mapping[str, float], *, kind: Kind = "train") -> None:
        """Show the numbers of a step."""
        told = [said for name, value in values.items() if kind == "event" and (said := sentence(name, value))]
        if told:
            self._print(f"step {step}/{self._total}: warning: {' '.join(told)}")
        elif kind != "train":
            wanted = VALIDATION if kind == "validation" else values
            chosen = {name: values[name] for name in wanted if name in values} or values
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in chosen.items())
            self._print(f"step {step}/{self._total}: {kind}: {shown}")
        elif self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=_numbers(values))
        else:
            left = self._time_left(step)
            if step % self._log_every == 0 or step == self._total:
                self._print(f"step {step}/{self._total}: {_numbers(values)}{left}")

    def flush(self) -> None:
        """Draw the bar as it stands."""
        if self._bar is not None:
            self._bar.refresh()

    def close(self, *, failed: bool = False) -> None:
        """Leave the bar as it stands and give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self, step: int) -> str:
        """The first step seen only starts the clock: it holds compilation and the filling of buffers."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._first = now, step
            return ""
        left = (now - self._began) / max(step - self._first, 1) * (self._total - step)
        return f", ETA {timedelta(seconds=round(left))}"


def _bar(console: rich.console.Console, total_steps: int) -> Progress:
    is_wide = console.width >= 110
    return Progress(
        BarColumn(bar_width=20 if is_wide else 3),
        MofNCompleteColumn(table_column=Column(min_width=2 * len(str(total_steps)) + 1)),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        *([TextColumn("ETA")] if is_wide else []),
        TimeRemainingColumn(compact=True, table_column=Column(min_width=5)),
        console=console,
        refresh_per_second=4,
        speed_estimate_period=300,
    )


def _numbers(values: Mapping[str, float]) -> str:
    formats = {  # a narrow terminal cuts the last ones
        "loss": "loss {:.4f}",
        "matching_accuracy": "matching {:.3f}",
        "images_per_second": "{:.1f} images/s",
        "data_wait": "data wait {:.0%}",
    }
    return ", ".join(text.format(values[name]) for name, text in formats.items() if name in values)
