"""Holes: the rows of a run that could not be read, in the run's quarantine.jsonl, and the budget for them.

A hole is written before the step that misses it is taken, by whichever rank meets it first; a conditional write keeps
the ranks from overwriting each other. A row is named by its corpus id, which is a salted hash.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from medalign import storage
from medalign.errors import ConflictError, NotFoundError, QuarantineError, StorageError

FILE_NAME = "quarantine.jsonl"
NAMED = 10  # ids in the message
TRIES = 50


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One row that could not be read.

    Attributes:
        row: its number within the run's rows.
        id: its salted id; where its shard is damaged, its place.
        reason: why; it quotes nothing of the row.
        step: the first step that missed it.
    """

    row: int
    id: str
    reason: str
    step: int


class Holes:
    """The holes that one rank of a run knows of."""

    def __init__(self, run: str, *, rows: int, max_share: float) -> None:
        """Start with what the run's folder says.

        Args:
            run: the run's URI.
            rows: of all its corpora.
            max_share: the largest share of them that may be bad.
        """
        self._file = storage.join(run, FILE_NAME)
        self._rows, self._max_share = rows, max_share
        self._known, _ = self._read()

    @property
    def known(self) -> tuple[Hole, ...]:
        """The holes of the run, in the order they were met, as far as this rank knows."""
        return tuple(self._known.values())

    def see(self, arrays: Mapping[str, np.ndarray], *, step: int) -> None:
        """Take note of a micro-batch's holes.

        Args:
            arrays: `row`, `id`, `reason` and `valid` of each row.
            step: the micro-batch's.

        Raises:
            QuarantineError: more rows of the run are bad than its budget allows; the first ten are named.
            StorageError: the run's folder cannot be written.
        """
        found = [
            Hole(row=int(arrays["row"][n]), id=str(arrays["id"][n]), reason=str(arrays["reason"][n]), step=step)
            for n in np.flatnonzero(~arrays["valid"])
        ]
        if any(hole.row not in self._known for hole in found):
            self._write(found)
        self._check_budget()

    def _write(self, found: list[Hole]) -> None:
        for turn in range(TRIES):
            self._known, tag = self._read()
            self._known |= {hole.row: hole for hole in found if hole.row not in self._known}
            data = "".join(json.dumps(asdict(hole)) + "\n" for hole in self._known.values()).encode()
            try:
                if tag is None:
                    storage.write_new(self._file, data)
                else:
                    storage.replace_version(self._file, data, tag)
                return
            except ConflictError:  # another rank came first: read what it wrote
                time.sleep(random.uniform(0, 0.02 * (turn + 1)))
        raise StorageError(f"{self._file}: other ranks wrote it {TRIES} times before this one could.")

    def _read(self) -> tuple[dict[int, Hole], str | None]:
        try:
            version = storage.read_version(self._file)
        except NotFoundError:
            return {}, None
        holes = [Hole(**json.loads(line)) for line in version.data.splitlines()]
        return {hole.row: hole for hole in holes}, version.tag

    def _check_budget(self) -> None:
        if len(self._known) <= self._max_share * self._rows:
            return
        first = list(self._known.values())[:NAMED]
        shown = ", ".join(f"{hole.id} ({hole.reason})" for hole in first)
        more = f" and {len(self._known) - NAMED} more" if len(self._known) > NAMED else ""
        raise QuarantineError(
            f"{len(self._known)} of {self._rows} rows are bad, more than data.max_bad_share={self._max_share:g} allows:"
            f" {shown}{more}; all are in {self._file}. Mend the corpus, or raise data.max_bad_share."
        )
