"""Moves between matchings in NumPy: the exchange that gains most, the fusion of two matchings, and random draws."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.matching.objective import Objective


def polish(
    objective: Objective, p: Int[np.ndarray, " n"], floor: float, *, partial: bool
) -> tuple[Int[np.ndarray, " n"], bool]:
    """Make the exchange that gains most until none gains more than `floor`; also return whether that came true.

    An exchange gives node i the node a of t; the owner j of a takes what i had. In the partial mode j may also be left
    without, and i may drop what it has.
    """
    p = p.copy()
    for _ in range(4 * len(p)):
        gain, changes = _best_move(objective, p) if partial else _best_swap(objective, p)
        if gain <= floor:
            return p, True
        for i, a in changes:
            p[i] = a
    return p, False


def _best_swap(objective: Objective, p: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    moved = objective.gradient(p)[:, p]  # what i gets from the partner of j, at [i, j]
    own = moved.diagonal()
    gains = moved + moved.T - own[:, None] - own[None, :]
    now, exchanged = objective.between(p)
    gains += now + exchanged
    gains[np.tril_indices(len(p))] = -np.inf
    i, j = divmod(int(gains.argmax()), len(p))
    return float(gains[i, j]), [(i, int(p[j])), (j, int(p[i]))]


def _best_move(objective: Objective, p: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    n = len(p)
    gradient = objective.gradient(p)
    matched = np.flatnonzero(p >= 0)
    own = np.zeros(n)
    own[matched] = gradient[matched, p[matched]]
    owner = np.full(n, -1)
    owner[p[matched]] = matched
    taken = owner >= 0
    now, exchanged = objective.between(p)
    evict = gradient - own[:, None] - np.where(taken, own[owner], 0.0)  # i takes a, its owner is left without
    evict[:, taken] += np.where((p >= 0)[:, None], now[:, owner[taken]], 0.0)
    evict[matched, p[matched]] = -np.inf
    back = np.full((n, n), -np.inf)  # on top of it, the owner takes what i had
    rows, columns = np.ix_(matched, np.flatnonzero(taken))
    back[rows, columns] = gradient[owner[columns], p[rows]] + exchanged[rows, owner[columns]]
    swap = evict + back
    drop = np.where(p >= 0, -own, -np.inf)
    options = np.stack([np.broadcast_to(drop[:, None], (n, n)), evict, swap])
    kind, i, a = (int(x) for x in np.unravel_index(options.argmax(), options.shape))
    gain = float(options[kind, i, a])
    if kind == 0:
        return gain, [(i, -1)]
    changes = [(int(owner[a]), int(p[i]) if kind == 2 else -1)] if taken[a] else []
    return gain, [*changes, (i, a)]


def fuse(objective: Objective, p: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"], floor: float) -> np.ndarray:
    """Return p with what gains of another matching, component by component.

    A component is a cycle or path of the two matchings laid over each other: exchanged as a whole it leaves a matching.
    """
    component, count = _components(p, other)
    if not count:
        return p
    at = component + 1  # 0: where the two agree
    choices = (p, other)
    first = np.stack([_unary_sums(objective, q, at, count + 1) for q in choices])  # (choice, component)
    tail, head = objective.edges_s[:, 0], objective.edges_s[:, 1]
    cell = at[tail] * (count + 1) + at[head]
    second = np.empty((2, 2, count + 1, count + 1))  # (choice of the tail, of the head, components)
    for a in (0, 1):
        for b in (0, 1):
            values = objective.edge_values(choices[a][tail], choices[b][head])
            second[a, b] = np.bincount(cell, values, (count + 1) ** 2).reshape(count + 1, count + 1)
    chosen = np.zeros(count + 1, dtype=np.int64)
    every = np.arange(count + 1)
    gained = True
    while gained:
        gained = False
        for c in range(1, count + 1):
            shares = []
            for choice in (chosen[c], 1 - chosen[c]):
                trial = np.where(every == c, choice, chosen)
                touching = second[choice, trial, c, every].sum() + second[trial, choice, every, c].sum()
                shares.append(first[choice, c] + touching - second[choice, choice, c, c])
            if shares[1] - shares[0] > floor:
                chosen[c] = 1 - chosen[c]
                gained = True
    return np.where(chosen[at] == 1, other, p)


def _unary_sums(objective: Objective, p: np.ndarray, at: np.ndarray, count: int) -> Float[np.ndarray, " count"]:
    nodes = np.flatnonzero(p >= 0)
    return np.bincount(at[nodes], objective.unary[nodes, p[nodes]], count)


def _components(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the number of the component of each node of s, -1 where p and q agree, and how many there are."""
    owner_p = {int(a): i for i, a in enumerate(p) if a >= 0}
    owner_q = {int(a): i for i, a in enumerate(q) if a >= 0}
    component = np.full(len(p), -1)
    count = 0
    for start in np.flatnonzero(p != q).tolist():
        if component[start] >= 0:
            continue
        for follow, owner in ((q, owner_p), (p, owner_q)):  # forward: who has in p what i has in q; then back
            i: int | None = start if follow is q else owner.get(int(p[start]))
            while i is not None and component[i] < 0:
                component[i] = count
                i = owner.get(int(follow[i]))
        count += 1
    return component, count


def draw_nodes(n: int, state: int) -> tuple[Int[np.ndarray, " m"], int]:
    """Return a twentieth to a third of n nodes and the next state of the draws; the same as `veto` of the kernels."""
    nodes = np.arange(n)
    state = _draw(state)
    count = min(n, max(2, n // 20) + (state >> 8) % max(1, n // 3 - n // 20))
    for k in range(count):
        state = _draw(state)
        m = k + (state >> 8) % (n - k)
        nodes[k], nodes[m] = nodes[m], nodes[k]
    return nodes[:count], state


def _draw(state: int) -> int:
    return (state * 1103515245 + 12345) % 2147483648


def exhaust(
    objective: Objective, p: Int[np.ndarray, " n"], value: float, floor: float, *, partial: bool
) -> tuple[Int[np.ndarray, " n"], float]:
    """Try every matching; return the best and its F, or p where none is better."""
    every = _all_matchings(len(p), partial)  # (A, n)
    pays = every >= 0
    values = np.where(pays, objective.unary[np.arange(len(p)), every], 0.0).sum(axis=1)
    for e, (i, j) in zip(objective.number_s, objective.edges_s, strict=True):
        edge_t = np.where(pays[:, i] & pays[:, j], objective.lookup[every[:, i], every[:, j]], -1)
        lands = np.flatnonzero(edge_t >= 0)
        values[lands] += objective.pairs(np.full(len(lands), e), edge_t[lands])
    best = int(values.argmax())
    return (every[best], float(values[best])) if values[best] > value + floor else (p, value)


@cache
def _all_matchings(n: int, partial: bool) -> Int[np.ndarray, "A n"]:
    if not partial:
        return np.array(list(permutations(range(n))))
    nobody = range(n, 2 * n)  # node i left unmatched takes n + i, so that all are permutations of a part
    every = {tuple(a if a < n else -1 for a in m) for m in permutations([*range(n), *nobody], n)}
    return np.array(sorted(every))
