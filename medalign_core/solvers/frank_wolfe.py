"""Frank-Wolfe over permutations and pair-swap polish, batched over problems and starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.matching_problem import Calculus


@dataclass(frozen=True, kw_only=True)
class SoftPoint:
    """P points of the doubly stochastic polytope, known by what Frank-Wolfe needs of them.

    Attributes:
        gradient: (P, N, N), dF/dX at the point.
        linear: (P,), the first-order part of F.
        quadratic: (P,), the second-order part of F.
    """

    gradient: Float[np.ndarray, "P N N"]
    linear: Float[np.ndarray, " P"]
    quadratic: Float[np.ndarray, " P"]


def permutation_point(calculus: Calculus, at: Int[np.ndarray, " P"], matching: Int[np.ndarray, "P N"]) -> SoftPoint:
    """Return the vertices of the polytope given by permutations."""
    gradient = calculus.gradient(at, matching)
    linear = calculus.linear(at, matching)
    both = np.take_along_axis(gradient, matching[:, :, None], axis=2).sum(axis=(1, 2))  # linear + 2 quadratic
    return SoftPoint(gradient=gradient, linear=linear, quadratic=0.5 * (both - linear))


def uniform_point(calculus: Calculus, valid: Bool[np.ndarray, "G N"], edges_t: Int[np.ndarray, "G T 2"]) -> SoftPoint:
    """Return the barycentre of each problem: every valid node matched to all valid nodes alike, holes to themselves."""
    graphs, size = valid.shape
    share = 1.0 / np.maximum(valid.sum(axis=1), 1)[:, None, None]
    point = np.where(valid[:, :, None] & valid[:, None, :], share, 0.0) + np.eye(size) * ~valid[:, :, None]
    nodes = np.arange(size)[None, None, :]
    leaves, enters = ((edges_t[..., side, None] == nodes).astype(np.float64) for side in (0, 1))  # (G, T, N)
    pair = calculus.pair[:, :-1, :-1]  # zero at edges that touch a hole, so all edges weigh the same share
    second = share * (calculus.from_source @ pair @ leaves + calculus.from_target @ pair @ enters)
    return SoftPoint(
        gradient=calculus.unary + second,
        linear=(calculus.unary * point).sum(axis=(1, 2)),
        quadratic=0.5 * (second * point).sum(axis=(1, 2)),
    )


def frank_wolfe(
    calculus: Calculus, at: Int[np.ndarray, " P"], start: SoftPoint, *, steps: int
) -> tuple[Int[np.ndarray, "P N"], Float[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Climb from each start; return the best permutation met, its F, and the number of assignments solved.

    F is quadratic, so its gradient is affine: at a convex combination of permutations it is the combination of their
    gradients. Each step needs one sparse gradient at a permutation, one linear assignment, and an exact line search
    from three inner products.
    """
    gradient, linear, quadratic = start.gradient.copy(), start.linear.copy(), start.quadratic.copy()
    best = np.full(len(at), -np.inf)
    best_matching = np.zeros(gradient.shape[:2], dtype=np.int64)
    used = np.zeros(len(at), dtype=np.int64)
    active = np.arange(len(at))
    for _ in range(steps):
        corner = assign(gradient[active])
        used[active] += 1
        there = permutation_point(calculus, at[active], corner)
        value = there.linear + there.quadratic
        better = value > best[active]
        best[active[better]] = value[better]
        best_matching[active[better]] = corner[better]
        toward = np.take_along_axis(gradient[active], corner[:, :, None], axis=2).sum(axis=(1, 2))
        cross = 0.5 * (toward - there.linear)
        # along X + t (C - X) the objective is a constant + slope * t + curve * t^2
        curve = quadratic[active] - 2 * cross + there.quadratic
        slope = there.linear - linear[active] + 2 * (cross - quadratic[active])
        step = np.where(curve < 0, np.minimum(1.0, -slope / np.where(curve < 0, 2 * curve, 1.0)), 1.0)
        going = slope > 1e-6 * (np.abs(linear[active]) + np.abs(quadratic[active]))
        active, step, there = active[going], step[going], _select(there, going)
        if not len(active):
            break
        gradient[active] += step[:, None, None] * (there.gradient - gradient[active])
        cross = cross[going]
        quadratic[active] = (
            (1 - step) ** 2 * quadratic[active] + 2 * step * (1 - step) * cross + step**2 * there.quadratic
        )
        linear[active] += step * (there.linear - linear[active])
    return best_matching, best, used


def swap_polish(
    calculus: Calculus, at: Int[np.ndarray, " P"], matching: Int[np.ndarray, "P N"], *, rounds: int
) -> tuple[Int[np.ndarray, "P N"], Bool[np.ndarray, " P"]]:
    """Exchange the partners of the pair of nodes that gains most until none gains; also return where that came true."""
    matching = matching.copy()
    size = matching.shape[1]
    active = np.arange(len(at))
    done = np.zeros(len(at), dtype=bool)
    for _ in range(rounds):
        gains = calculus.swap_gains(at[active], matching[active]).reshape(len(active), -1)
        pick = gains.argmax(axis=1)
        # a relative floor on what counts as a gain: rounding noise must not send the search in circles
        gained = gains[np.arange(len(active)), pick] > 1e-10 * calculus.scale[at[active]]
        done[active[~gained]] = True
        active, pick = active[gained], pick[gained]
        if not len(active):
            break
        i, j = pick // size, pick % size
        matching[active, i], matching[active, j] = matching[active, j], matching[active, i]
    return matching, done


def _select(point: SoftPoint, kept: np.ndarray) -> SoftPoint:
    return SoftPoint(gradient=point.gradient[kept], linear=point.linear[kept], quadratic=point.quadratic[kept])
