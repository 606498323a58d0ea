"""Cuts a batch into chunks that stay in cache, each of one kind, and puts the outcomes back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medalign_core.solvers.transport import host
from medalign_core.solvers.transport.outcome import Outcome
from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.reduced import Reduced, is_narrow, reduce

CACHE_BYTES = 1 << 22  # of kernel per chunk on the CPU: a share of the last cache; smaller ones drown in calls
DEVICE_BYTES = 1 << 28  # elsewhere: few launches, bounded temporaries


def chunk_size(problem: Problem) -> int:
    """Return how many problems make a chunk."""
    _, rows, columns = problem.cost.shape
    budget = CACHE_BYTES if host.may_read(problem.cost) else DEVICE_BYTES
    return max(1, budget // (rows * columns * problem.cost.element_size()))


def solve_in_chunks(problem: Problem, algorithm: Callable[[Reduced], Outcome]) -> Outcome:
    """Solve every problem.

    On the CPU narrow problems (whose kernel can be formed once) are solved apart from wide ones, so which form a
    problem takes depends on itself alone. Elsewhere all count as wide: asking would make the host wait.
    """
    parts = [(at, algorithm(reduce(problem.take(at), narrow=narrow))) for at, narrow in _chunks(problem)]
    if len(parts) == 1:
        return parts[0][1]
    out = Outcome.empty(problem.cost.detach())
    for at, part in parts:
        out.store(at, part)
    return out


def _chunks(problem: Problem) -> Iterator[tuple[Tensor | slice, bool]]:
    size, count = chunk_size(problem), len(problem.cost)
    kinds: dict[bool, Tensor | None] = {False: None}
    if host.may_read(problem.cost):
        narrow = is_narrow(problem)
        share = int(narrow.sum())
        kinds = {True: None} if share == count else {False: None}
        if 0 < share < count:
            kinds = {True: narrow.nonzero()[:, 0], False: torch.logical_not(narrow).nonzero()[:, 0]}
    for kind, members in kinds.items():
        for start in range(0, count if members is None else len(members), size):
            part = slice(start, start + size)
            yield (part if members is None else members[part]), kind
