"""The kernel of a block of problems, one in each lane, its row and column sums, and how far they are from the targets.

Every function reads and writes a `Work` in place. Four columns at a time stay in registers while a loop runs over rows.
"""

from __future__ import annotations

from typing import no_type_check

from numba import njit

from medalign_core.solvers.transport.compiled_functions import exp, exp2_below, log, log2
from medalign_core.solvers.transport.compiled_lanes import fma, load, maximum, minimum, select, splat, store, store_four
from medalign_core.solvers.transport.compiled_layout import (
    ABSORBED,
    COLUMN_SUM,
    FAR,
    GAP,
    MARGINAL,
    MASS,
    ROW_SUM,
    SCALED,
    STEP,
    TARGET,
    TILE,
    TINY,
    TOP,
    WEIGHT,
    B,
    X,
)


@njit(nogil=True)
@no_type_check
def build_kernel(work, constants):
    """Turn the costs in `block` into K = exp((g0_n - C_mn - top_m) / eps), top_m the row's largest g0_n - C_mn.

    Every row then has a 1 among the columns with weight. Returns the largest top of the rows with weight.
    """
    m, n, p = work.m, work.n, work.padded
    highest = splat(work.rows, -FAR)
    for i in range(m):
        top = splat(work.rows, -FAR)
        for j in range(n):
            reach = load(work.columns, ABSORBED * p + j) - load(work.block, i * n + j)
            store(work.block, i * n + j, reach)
            top = maximum(top, select(load(work.columns, B * p + j) > 0.0, reach, -FAR))
        for j in range(n):
            drop = (load(work.block, i * n + j) - top) * constants.inverse_epsilon2
            store(work.block, i * n + j, exp2_below(drop, 0.0))
        store(work.rows, TOP * m + i, top)
        highest = maximum(highest, select(load(work.rows, MARGINAL * m + i) > 0.0, top, -FAR))
    return highest


@njit(nogil=True)
@no_type_check
def sum_rows_and_columns(work, constants, highest):
    """S_m = sum_n K_mn b_n e^{x_n}, the weights w_m = r_m / S_m, and t_n = sum_m K_mn w_m.

    r_m is the row's mass at the rows' optimum, up to exp((1 - tau_a) highest / eps).
    """
    m, n, p = work.m, work.n, work.padded
    for j in range(n):
        scaled = load(work.columns, B * p + j) * exp(load(work.columns, X * p + j))
        store(work.columns, SCALED * p + j, scaled)
        store(work.columns, COLUMN_SUM * p + j, 0.0)
    if p == TILE:
        _sum_narrow(work, constants, highest)
        return
    for low in range(0, m, work.strip):
        high = min(m, low + work.strip)
        for first in range(0, p, TILE):
            _row_sums(work, first, low, high)
        for i in range(low, high):
            w = _weight(work, constants, highest, i, load(work.rows, ROW_SUM * m + i))
            store(work.rows, WEIGHT * m + i, w)
        for first in range(0, p, TILE):
            column_sums(work, first, low, high)


@njit(nogil=True, forceinline=True)
@no_type_check
def _weight(work, constants, highest, i, row_sum):
    """a_m S_m^{-tau_a} e^{(1 - tau_a) (top_m - highest) / eps}."""
    a = load(work.rows, MARGINAL * work.m + i)
    row_sum = maximum(row_sum, TINY)
    if constants.tau_a == 1.0:
        return a / row_sum
    drop = (load(work.rows, TOP * work.m + i) - highest) * constants.row_scale2
    return a * exp2_below(fma(log2(row_sum), -constants.tau_a, drop), 127.0)


@njit(nogil=True)
@no_type_check
def _sum_narrow(work, constants, highest):
    """All three sums in one pass where one tile holds every column."""
    m, n, at = work.m, work.n, SCALED * work.padded
    j1, j2, j3 = min(1, n - 1), min(2, n - 1), min(3, n - 1)
    v0, v1, v2, v3 = (
        load(work.columns, at),
        load(work.columns, at + 1),
        load(work.columns, at + 2),
        load(work.columns, at + 3),
    )
    t0 = splat(work.rows, 0.0)
    t1, t2, t3 = t0, t0, t0
    for i in range(m):
        k = i * n
        k0, k1, k2, k3 = (
            load(work.block, k),
            load(work.block, k + j1),
            load(work.block, k + j2),
            load(work.block, k + j3),
        )
        s = fma(k1, v1, k0 * v0) + fma(k3, v3, k2 * v2)
        w = _weight(work, constants, highest, i, s)
        store(work.rows, ROW_SUM * m + i, s)
        store(work.rows, WEIGHT * m + i, w)
        t0, t1, t2, t3 = fma(k0, w, t0), fma(k1, w, t1), fma(k2, w, t2), fma(k3, w, t3)
    store_four(work.columns, COLUMN_SUM * work.padded, (t0, t1, t2, t3))


@njit(nogil=True)
@no_type_check
def _row_sums(work, first, low, high):
    m, n, at = work.m, work.n, SCALED * work.padded + first
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)  # a padded column counts 0 times
    v0, v1 = load(work.columns, at), load(work.columns, at + 1)
    v2, v3 = load(work.columns, at + 2), load(work.columns, at + 3)
    for i in range(low, high):
        k = i * n
        s = fma(load(work.block, k + j1), v1, load(work.block, k + first) * v0)
        s = s + fma(load(work.block, k + j3), v3, load(work.block, k + j2) * v2)
        if first > 0:
            s = s + load(work.rows, ROW_SUM * m + i)
        store(work.rows, ROW_SUM * m + i, s)


@njit(nogil=True)
@no_type_check
def column_sums(work, first, low, high):
    """Add sum_m block_mn w_m over some rows to the sums of four columns."""
    m, n, at = work.m, work.n, COLUMN_SUM * work.padded + first
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
    t0, t1 = load(work.columns, at), load(work.columns, at + 1)
    t2, t3 = load(work.columns, at + 2), load(work.columns, at + 3)
    for i in range(low, high):
        k, w = i * n, load(work.rows, WEIGHT * m + i)
        t0, t1 = fma(load(work.block, k + first), w, t0), fma(load(work.block, k + j1), w, t1)
        t2, t3 = fma(load(work.block, k + j2), w, t2), fma(load(work.block, k + j3), w, t3)
    store_four(work.columns, at, (t0, t1, t2, t3))


@njit(nogil=True)
@no_type_check
def compare_marginals(work, constants, highest):
    """The marginal of the columns against its target, after the best common shift.

    Returns the L1 error, the mass, log(sum target / sum mass) and the factor that the shift gives the plan.
    """
    n, p = work.n, work.padded
    lowest = splat(work.rows, FAR)
    for j in range(n):
        x = fma(load(work.columns, ABSORBED * p + j), constants.inverse_epsilon, load(work.columns, X * p + j))
        lowest = minimum(lowest, select(load(work.columns, B * p + j) > 0.0, x, FAR))
    masses, targets = splat(work.rows, 0.0), splat(work.rows, 0.0)
    for j in range(n):
        b = load(work.columns, B * p + j)
        x = fma(load(work.columns, ABSORBED * p + j), constants.inverse_epsilon, load(work.columns, X * p + j))
        exponent = (lowest - x) * constants.q  # not positive where there is weight
        total = load(work.columns, COLUMN_SUM * p + j)
        mass, target = load(work.columns, SCALED * p + j) * total, b * exp(exponent)
        store(work.columns, MASS * p + j, mass)
        store(work.columns, TARGET * p + j, target)
        store(work.columns, GAP * p + j, exponent - load(work.columns, X * p + j) - log(total))
        masses, targets = masses + mass, targets + target
    log_masses, log_targets = log(masses), log(targets)
    shift = log_masses - log_targets
    log_masses, log_targets = fma(highest, constants.row_scale, log_masses), fma(lowest, -constants.q, log_targets)
    log_ratio = log_targets - log_masses
    masses, targets = maximum(masses, TINY), maximum(targets, TINY)
    row_scale, target_scale, mass = splat(work.rows, 1.0), splat(work.rows, 1.0), masses
    if constants.shift > 0.0:
        mass = exp(fma(log_ratio, constants.shift_a, log_masses))
        row_scale, target_scale = mass / masses, mass / targets
    error = splat(work.rows, 0.0)
    slope = error
    for j in range(n):
        gap = select(load(work.columns, B * p + j) > 0.0, load(work.columns, GAP * p + j) + shift, 0.0)
        store(work.columns, GAP * p + j, gap * constants.tau_b)
        off = load(work.columns, MASS * p + j) * row_scale - load(work.columns, TARGET * p + j) * target_scale
        error = error + maximum(off, off * -1.0)
        slope = fma(off, load(work.columns, STEP * p + j), slope)
    return error, slope, mass + targets * target_scale, log_ratio, row_scale
