"""What the compiled solvers compute of a block, one problem in each lane: kernel, marginals, curvature, its inverse.

Every function reads and writes a `Work` in place. Its `block` holds the M N entries of the problems (the cost, then the
kernel, at last the plan), `rows` four vectors of M entries, `columns` vectors of N entries padded to a multiple of four
and, behind them, a square matrix of that size. Four columns at a time stay in registers while a loop runs over the rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

from numba import njit

from medalign_core.solvers.transport.compiled_functions import exp, exp_below, log
from medalign_core.solvers.transport.compiled_lanes import fma, load, maximum, select, splat, store

FAR = 1e30  # a cost, an exponent: beyond everything that matters, and still finite in float32
TINY = 1e-37
TILE = 4
ROW_SUM, WEIGHT, MARGINAL, TOP = range(4)  # the vectors in `rows`
B, ABSORBED, X, BASE, STEP, SCALED, COLUMN_SUM, MASS, GAP, TARGET, EXCESS, RIGHT, INVERSE, SWEEP = range(
    14
)  # in `columns`
SLOTS = 14


class Work(NamedTuple):
    """Scratch of one thread, in lane vectors: `block` M N, `rows` 4 M, `columns` (14 + n) n with n = N padded; and sizes."""

    block: Any
    rows: Any
    columns: Any
    m: int
    n: int
    padded: int
    strip: int
    lanes: int


class Constants(NamedTuple):
    """The problem's numbers as kernels use them: tau = rho / (rho + epsilon), 1 where rho is infinite; q = epsilon / rho_b.

    shift_a = (1 - tau_a) / d, shift_b = q / d and shift = 1 / d with d = (1 - tau_a) + q, all 0 where both sides are
    balanced; row_scale = (1 - tau_a) / eps; slack = 1 - tau_a tau_b without cancellation.
    """

    epsilon: float
    inverse_epsilon: float
    tau_a: float
    tau_b: float
    row_scale: float
    slack: float
    q: float
    shift_a: float
    shift_b: float
    shift: float
    tolerance: float
    floor: float
    max_iterations: int


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
            drop = (load(work.block, i * n + j) - top) * constants.inverse_epsilon
            store(work.block, i * n + j, exp_below(drop, 0.0))
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
    drop = (load(work.rows, TOP * work.m + i) - highest) * constants.row_scale
    return a * exp(fma(log(row_sum), -constants.tau_a, drop))


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
    _store_four(work.columns, COLUMN_SUM * work.padded, (t0, t1, t2, t3))


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
    _store_four(work.columns, at, (t0, t1, t2, t3))


@njit(nogil=True, forceinline=True)
@no_type_check
def _store_four(columns, at, four):
    store(columns, at, four[0])
    store(columns, at + 1, four[1])
    store(columns, at + 2, four[2])
    store(columns, at + 3, four[3])


@njit(nogil=True)
@no_type_check
def weigh_products(work):
    """The matrix sum_m block_mj block_mk w_m / S_m below its diagonal; leaves w / S where S was."""
    m, p = work.m, work.padded
    for at in range(SLOTS * p, SLOTS * p + p * p):
        store(work.columns, at, 0.0)
    for low in range(0, m, work.strip):
        high = min(m, low + work.strip)
        for first in range(0, p, TILE):
            _products_within(work, first, low, high)
            for other in range(0, first, TILE):
                _products_across(work, first, other, (low, high))
                _products_across(work, first + 2, other, (low, high))


@njit(nogil=True)
@no_type_check
def _products_within(work, first, low, high):
    m, n, p = work.m, work.n, work.padded
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
    at = SLOTS * p + first * p + first
    g10 = load(work.columns, at + p)
    g20, g21 = load(work.columns, at + 2 * p), load(work.columns, at + 2 * p + 1)
    g30, g31, g32 = (
        load(work.columns, at + 3 * p),
        load(work.columns, at + 3 * p + 1),
        load(work.columns, at + 3 * p + 2),
    )
    for i in range(low, high):
        k, w = i * n, load(work.rows, ROW_SUM * m + i)
        if first == 0:
            w = load(work.rows, WEIGHT * m + i) / maximum(w, TINY)
            store(work.rows, ROW_SUM * m + i, w)
        k0, k1 = load(work.block, k + first), load(work.block, k + j1)
        k2, k3 = load(work.block, k + j2), load(work.block, k + j3)
        w1, w2, w3 = k1 * w, k2 * w, k3 * w
        g10 = fma(k0, w1, g10)
        g20, g21 = fma(k0, w2, g20), fma(k1, w2, g21)
        g30, g31, g32 = fma(k0, w3, g30), fma(k1, w3, g31), fma(k2, w3, g32)
    store(work.columns, at + p, g10)
    store(work.columns, at + 2 * p, g20)
    store(work.columns, at + 2 * p + 1, g21)
    store(work.columns, at + 3 * p, g30)
    store(work.columns, at + 3 * p + 1, g31)
    store(work.columns, at + 3 * p + 2, g32)


@njit(nogil=True)
@no_type_check
def _products_across(work, first, other, span):
    m, n, p = work.m, work.n, work.padded
    i0, i1 = min(first, n - 1), min(first + 1, n - 1)
    at = SLOTS * p + first * p + other
    g00, g01, g02, g03 = (
        load(work.columns, at),
        load(work.columns, at + 1),
        load(work.columns, at + 2),
        load(work.columns, at + 3),
    )
    at = at + p
    g10, g11, g12, g13 = (
        load(work.columns, at),
        load(work.columns, at + 1),
        load(work.columns, at + 2),
        load(work.columns, at + 3),
    )
    for i in range(span[0], span[1]):
        k, w = i * n, load(work.rows, ROW_SUM * m + i)
        w0, w1 = load(work.block, k + i0) * w, load(work.block, k + i1) * w
        k0, k1 = load(work.block, k + other), load(work.block, k + other + 1)
        k2, k3 = load(work.block, k + other + 2), load(work.block, k + other + 3)
        g00, g01, g02, g03 = fma(w0, k0, g00), fma(w0, k1, g01), fma(w0, k2, g02), fma(w0, k3, g03)
        g10, g11, g12, g13 = fma(w1, k0, g10), fma(w1, k1, g11), fma(w1, k2, g12), fma(w1, k3, g13)
    _store_four(work.columns, at - p, (g00, g01, g02, g03))
    _store_four(work.columns, at, (g10, g11, g12, g13))


@njit(nogil=True)
@no_type_check
def solve_curvature(work, coupling, slack):
    """Solve (diag(mass) - coupling P) y = RIGHT for y, in place of RIGHT; P is the lower triangle behind the slots.

    P 1 = mass and slack = 1 - coupling, so the matrix is slack diag(mass) plus a graph Laplacian. Elimination
    that keeps off-diagonals and row sums (Grassmann, Taksar and Heyman 1985) only adds positive numbers: no
    cancellation, however close to singular. A column without weight, and one column of a balanced problem, have no
    pivot: their y is their GAP (a fixed-point sweep; a common shift of a balanced problem changes nothing).
    """
    n, p = work.n, work.padded
    matrix = SLOTS * p
    for j in range(n):
        store(work.columns, EXCESS * p + j, load(work.columns, MASS * p + j) * slack)
        for k in range(j):
            store(work.columns, matrix + j * p + k, load(work.columns, matrix + j * p + k) * coupling)
    for j in range(n):
        pivot = load(work.columns, EXCESS * p + j)
        for i in range(j + 1, n):
            pivot = pivot + load(work.columns, matrix + i * p + j)
        inverse = select(pivot > 1e-30, 1.0 / pivot, 0.0 * pivot)
        store(work.columns, INVERSE * p + j, inverse)
        excess, right = load(work.columns, EXCESS * p + j), load(work.columns, RIGHT * p + j)
        for i in range(j + 1, n):
            share = load(work.columns, matrix + i * p + j) * inverse
            store(work.columns, EXCESS * p + i, fma(share, excess, load(work.columns, EXCESS * p + i)))
            store(work.columns, RIGHT * p + i, fma(share, right, load(work.columns, RIGHT * p + i)))
            for k in range(j + 1, i):
                old = load(work.columns, matrix + i * p + k)
                store(work.columns, matrix + i * p + k, fma(share, load(work.columns, matrix + k * p + j), old))
    for j in range(n - 1, -1, -1):
        y, inverse = load(work.columns, RIGHT * p + j), load(work.columns, INVERSE * p + j)
        for i in range(j + 1, n):
            y = fma(load(work.columns, matrix + i * p + j), load(work.columns, RIGHT * p + i), y)
        store(work.columns, RIGHT * p + j, select(inverse > 0.0, y * inverse, load(work.columns, GAP * p + j)))
