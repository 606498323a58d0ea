"""Following a job's log: its lines as they come; on a terminal the steps become a bar."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medalign.errors import MedAlignError

STEP = re.compile(r"step (\d+)/(\d+): (?!warning|validation)(.*)")
LOST_AFTER_S = 120.0  # without an answer from the cluster
RETRY_S = 2.0


class Printer:
    """Prints a log; on a terminal the lines of steps move a bar instead.

    Attributes:
        last: the last line that was not empty.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout)
        self._rest = ""
        self._bar: Progress | None = None
        self.last = ""

    def feed(self, text: str) -> None:
        """Take the next piece of the log, which may end within a line."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._show(line)

    def close(self) -> None:
        """Show what is left of the last line, and give the terminal back."""
        if self._rest:
            self._show(self._rest)
        self._rest = ""
        if self._bar is not None:
            self._bar.stop()

    def _show(self, line: str) -> None:
        self.last = line if line.strip() else self.last
        found = STEP.match(line)
        if found and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._advance(int(found[1]), int(found[2]), found[3])
            return
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _advance(self, step: int, total: int, numbers: str) -> None:
        if self._bar is None:
            columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}", markup=False))
            self._bar = Progress(*columns, TimeRemainingColumn(compact=True), console=self._console)
            self._bar.add_task("training", total=total, numbers="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=step, total=total, numbers=numbers.partition(", ETA")[0])


def follow(client: Any, job: str, take: Callable[[str], object]) -> Any:
    """Give the log of a job piece by piece to `take` until it has ended, and return what is known of the job then.

    A connection that breaks is made again, and what was taken already is not given again.

    Raises:
        MedAlignError: the cluster has not answered for two minutes.
    """
    taken, heard = 0, time.monotonic()
    while True:
        try:
            taken += asyncio.run(_tail(client, job, take, skip=taken))
            found = client.get_job_info(job)
            if found.status.is_terminal():
                return found
            heard = time.monotonic()
        except (RuntimeError, OSError, ConnectionError) as error:
            if time.monotonic() - heard > LOST_AFTER_S:
                raise MedAlignError(f"the cluster does not answer any more; job {job} may go on: {error}") from error
        time.sleep(RETRY_S)


async def _tail(client: Any, job: str, take: Callable[[str], object], *, skip: int) -> int:
    """Give what comes after the first `skip` characters; return how many those were."""
    seen = 0
    try:
        async for piece in client.tail_job_logs(job):
            fresh = piece[max(0, skip - seen) :]
            seen += len(piece)
            if fresh:
                take(fresh)
    except RuntimeError:
        if seen <= skip:
            raise
    return max(0, seen - skip)
