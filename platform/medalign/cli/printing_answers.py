"""What `medalign evaluate --task vqa` prints: the table of answers with floors, paired comparisons, progress."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.progress import Progress

from medalign.cli.printing import _console, _line, _short, _show, _table, _words

if TYPE_CHECKING:
    from medalign.evaluation.result import Comparison
    from medalign.evaluation.vqa.result import VqaResult
    from medalign_core.metrics.intervals import Interval


@contextlib.contextmanager
def progress_line(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how far something is: a bar on a terminal, elsewhere a line for each tenth."""
    console = _console(sys.stderr)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal or console.is_dumb_terminal)
    task = bar.add_task(doing, total=None)
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total)
        if bar.disable and done * 10 // total > shown:
            shown = done * 10 // total
            bar.console.print(f"{done}/{total} {doing}", soft_wrap=True)

    with bar:
        yield advance


def show_answers(result: VqaResult) -> None:
    """Print an evaluation by questions: every row with its intervals beneath, what to know, where it lies."""
    columns = result.columns()
    table = _table("model", "seed", "failures", *columns.values())
    for s in result.scores:
        name = s.model if s.decoding in ("greedy", "floor") else f"{s.model}, {s.decoding}"
        name = f"{name} (floor)" if s.decoding == "floor" else name
        cells = (_cell(s.metrics.get(column)) for column in columns)
        table.add_row(name, str(s.seed), f"{s.failures:,}", *cells)
    _show(table)
    show_paired([c for c in result.comparisons if c.role == "primary"])
    for note in result.notes:
        _words(f"note: {note}")
    if result.seconds_per_question is not None:
        _words(f"{result.seconds_per_question:.2f} s per question")
    _words(result.caption())
    _line(result.uri)


def show_paired(comparisons: Sequence[Comparison]) -> None:
    """Print paired comparisons, if there are any; the one declared before looking is marked."""
    if not comparisons:
        return
    table = _table("difference of", "in", "estimate", "p", "verdict", left=2)
    for c in comparisons:
        mark = " (primary)" if c.role == "primary" else ""
        spread = f"{c.difference.estimate:+.3f}\n{c.difference.low:+.2f} to {c.difference.high:+.2f}"
        p_value = f"{c.adjusted:.3f}" if c.adjusted >= 0.001 else "< 0.001"
        table.add_row(f"{c.method} - {c.against}", f"{c.metric}{mark}", spread, p_value, c.verdict)
    _show(table)


def _cell(found: Interval | None) -> str:
    if found is None or not math.isfinite(found.estimate):
        return ""
    spread = f"{_short(found.low)}-{_short(found.high)}" if math.isfinite(found.low) else "no interval"
    return f"{found.estimate:.3f}\n{spread}"
