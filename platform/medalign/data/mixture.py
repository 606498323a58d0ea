"""Mixtures: which corpus a position belongs to, and which of its rows; a pure function, seekable in O(1).

The weights become whole numbers of slots in a cycle of 10,000 positions, and each corpus's slots are spread evenly over
it. So among any number of consecutive positions a corpus has its share to within a few, and how often it was drawn
before a position is a multiplication and a table look-up. Its n-th draw is row n mod R of its own epoch n div R, in an
order of that epoch: every row of a corpus once per corpus epoch, however fast the others turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medalign.data.permuting import line_rows
from medalign.errors import PlanError

CYCLE = 10_000


@dataclass(frozen=True)
class Mixture:
    """How corpora share the positions.

    Attributes:
        weights: the share of each corpus; they need not sum to one.
        parts: the number of row groups of each corpus, in the order in which their rows are numbered through.

    Raises:
        PlanError: a weight that is less than one slot of a cycle.
    """

    weights: tuple[float, ...]
    parts: tuple[int, ...]

    def __post_init__(self) -> None:
        for number, slots in enumerate(self.slots):
            if not slots:
                raise PlanError(
                    f"data.mixture[{number}].weight={self.weights[number]:g} is less than 1/{CYCLE} of all weights;"
                    " raise it, or leave that corpus out."
                )

    @property
    def slots(self) -> tuple[int, ...]:
        """The number of each corpus's positions in a cycle."""
        return _slots(self.weights)

    def corpus_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the corpus of each position, (P,) int64."""
        return _cycle(self.weights)[0][positions % CYCLE]

    def drawn_before(self, position: int) -> np.ndarray:
        """Return how many rows of each corpus the positions [0, position) hold, (K,) int64."""
        turns, within = divmod(position, CYCLE)
        return turns * np.array(self.slots) + _cycle(self.weights)[1][within]

    def draw(self, positions: np.ndarray, row_groups: Sequence[int], *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, corpus epochs) at some positions, before any window permutes them.

        Args:
            positions: counted from the start of the run, (P,) int64.
            row_groups: rows of each row group of all corpora.
            seed: the run's seed.
        """
        owners, before = _cycle(self.weights)
        within = positions % CYCLE
        corpora = owners[within]
        draws = positions // CYCLE * np.array(self.slots)[corpora] + before[within, corpora]
        rows, epochs = np.empty(len(positions), np.int64), np.empty(len(positions), np.int64)
        edges = np.concatenate([[0], np.cumsum(self.parts)])
        sizes = np.asarray(row_groups)
        first_row = np.concatenate([[0], np.cumsum(sizes)])
        for corpus in np.unique(corpora).tolist():
            own = sizes[edges[corpus] : edges[corpus + 1]]
            of_corpus = corpora == corpus
            epochs[of_corpus], places = np.divmod(draws[of_corpus], own.sum())
            for epoch in np.unique(epochs[of_corpus]).tolist():
                chosen = of_corpus & (epochs == epoch)
                line = line_rows(own, places[epochs[of_corpus] == epoch], seed, "row groups", f"corpus {corpus}", epoch)
                rows[chosen] = first_row[edges[corpus]] + line
        return rows, epochs


@lru_cache(maxsize=8)
def _slots(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Return whole numbers that sum to CYCLE: floors, and one more for the largest remainders."""
    exact = np.array(weights) / sum(weights) * CYCLE
    found = np.floor(exact + 1e-9).astype(np.int64)
    for number in np.argsort(-(exact - found), kind="stable")[: CYCLE - found.sum()]:
        found[number] += 1
    return tuple(found.tolist())


@lru_cache(maxsize=8)
def _cycle(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the corpus of each slot (CYCLE,), and how many slots each corpus has before it (CYCLE, K)."""
    slots = _slots(weights)
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in slots])
    owners = np.repeat(np.arange(len(slots)), slots)[np.argsort(places, kind="stable")]
    is_own = owners[:, None] == np.arange(len(slots))
    return owners, np.cumsum(is_own, axis=0) - is_own
