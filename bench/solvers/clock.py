"""CPU time on one core: interleaved rounds, medians, and the smallest number of iterations that reaches a residual."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable

SHORTEST = 0.02  # seconds: a call that takes less is repeated until one sample takes this long
LONG = 2.0  # seconds: one run of such a call needs no rehearsal


def pin(core: int) -> None:
    """Bind this process, and every thread it starts from now on, to one core."""
    os.sched_setaffinity(0, {core})


def medians(calls: dict[str, Callable[[], object]], *, rounds: int, budget: float = 20.0) -> dict[str, float]:
    """Return the median CPU seconds of each call over interleaved rounds.

    A call that takes less than LONG runs once more unmeasured (caches); whoever compiles must have done so before. A
    call whose rounds would take more than `budget` seconds gets fewer, at least one.
    """
    samples: dict[str, list[float]] = {}
    repeats, shares = {}, {}
    for name, call in calls.items():
        seconds = _seconds(call, 1)
        samples[name] = [seconds] if seconds > LONG else []
        if not samples[name]:
            seconds = max(_seconds(call, 1), 1e-7)
        repeats[name] = max(1, round(SHORTEST / seconds))
        shares[name] = max(1, min(rounds, int(budget / (seconds * repeats[name])))) - len(samples[name])
    for turn in range(rounds):
        for name, call in calls.items():
            if turn < shares[name]:
                samples[name].append(_seconds(call, repeats[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def smallest(residual: Callable[[int], float], tolerance: float, candidates: Iterable[int]) -> tuple[int, float]:
    """Return the first candidate iteration count whose residual is at most the tolerance, and that residual.

    Where none is, the one with the smallest residual: its row says what it reached.
    """
    best = (0, float("inf"))
    for count in candidates:
        found = residual(count)
        if found <= tolerance:
            return count, found
        if found < best[1]:
            best = (count, found)
    return best


def _seconds(call: Callable[[], object], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats
