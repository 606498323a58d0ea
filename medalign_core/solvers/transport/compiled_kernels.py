"""What the compiled solvers compute of a block, one problem in each lane: kernel, marginals, curvature, its inverse.

Every function reads and writes a `Work` in place. Its `block` holds the M N entries of the problems (the cost, then the
kernel, at last the plan), `rows` four vectors of M entries, `columns` vectors of N entries padded to a multiple of four
and, behind them, a square matrix of that size. Four columns at a time stay in registers while a loop runs over the rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

from numba import njit

from medalign_core.solvers.transport.compiled_functions import exp, log
from medalign_core.solvers.transport.compiled_lanes import fma, load, maximum, minimum, select, splat, store

FAR = 1e30  # a cost, an exponent: beyond everything that matters, and still finite in float32
TINY = 1e-37
TILE = 4
ROW_SUM, WEIGHT, MARGINAL, TOP = range(4)  # the vectors in `rows`
B, ABSORBED, X, BASE, STEP, SCALED, COLUMN_SUM, MASS, GAP, TARGET, EXCESS, RIGHT, INVERSE = range(13)  # in `columns`
SLOTS = 13


class Work(NamedTuple):
    """Scratch of one thread, in lane vectors: `block` M N, `rows` 4 M, `columns` (13 + n) n with n = N padded; and sizes."""

    block: Any
    rows: Any
    columns: Any
    m: int
    n: int
    padded: int
    lanes: int


class Constants(NamedTuple):
    """The problem's numbers as kernels use them: tau = rho / (rho + epsilon), 1 where rho is infinite; q = epsilon / rho_b.

    shift_a = (1 - tau_a) / d, shift_b = q / d and shift = 1 / d with d = (1 - tau_a) + q, all 0 where both sides are
    balanced; slack = 1 - tau_a tau_b without cancellation.
    """

    epsilon: float
    inverse_epsilon: float
    tau_a: float
    tau_b: float
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

    Every row then has a 1 among the columns with weight. `rows[MARGINAL]` turns from a into what r / Z needs of it:
    a itself where tau_a = 1, otherwise log a + (1 - tau_a) (top - highest) / eps. Returns (1 - tau_a) highest / eps.
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
            store(work.block, i * n + j, exp(minimum(0.0, drop)))
        store(work.rows, TOP * m + i, top)
        highest = maximum(highest, select(load(work.rows, MARGINAL * m + i) > 0.0, top, -FAR))
    scale = (1.0 - constants.tau_a) * constants.inverse_epsilon
    if constants.tau_a < 1.0:
        for i in range(m):
            a = load(work.rows, MARGINAL * m + i)
            weight = fma(load(work.rows, TOP * m + i) - highest, scale, log(a))
            store(work.rows, MARGINAL * m + i, select(a > 0.0, weight, -FAR))
    return highest * scale


@njit(nogil=True)
@no_type_check
def sum_rows_and_columns(work, constants):
    """S_m = sum_n K_mn b_n e^{x_n}, the weights w_m = r_m / S_m, and t_n = sum_m K_mn w_m."""
    m, n, p = work.m, work.n, work.padded
    for j in range(n):
        scaled = load(work.columns, B * p + j) * exp(load(work.columns, X * p + j))
        store(work.columns, SCALED * p + j, scaled)
    for first in range(0, p, TILE):
        _row_sums(work, first)
    if constants.tau_a < 1.0:
        for i in range(m):
            s = maximum(load(work.rows, ROW_SUM * m + i), TINY)
            w = exp(fma(log(s), -constants.tau_a, load(work.rows, MARGINAL * m + i)))
            store(work.rows, WEIGHT * m + i, w)
    else:
        for i in range(m):
            s = maximum(load(work.rows, ROW_SUM * m + i), TINY)
            store(work.rows, WEIGHT * m + i, load(work.rows, MARGINAL * m + i) / s)
    for first in range(0, p, TILE):
        column_sums(work, first)


@njit(nogil=True)
@no_type_check
def _row_sums(work, first):
    m, n, at = work.m, work.n, SCALED * work.padded + first
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)  # a padded column counts 0 times
    v0, v1 = load(work.columns, at), load(work.columns, at + 1)
    v2, v3 = load(work.columns, at + 2), load(work.columns, at + 3)
    for i in range(m):
        k = i * n
        s = fma(load(work.block, k + j1), v1, load(work.block, k + first) * v0)
        s = s + fma(load(work.block, k + j3), v3, load(work.block, k + j2) * v2)
        if first > 0:
            s = s + load(work.rows, ROW_SUM * m + i)
        store(work.rows, ROW_SUM * m + i, s)


@njit(nogil=True)
@no_type_check
def column_sums(work, first):
    """sum_m block_mn w_m of four columns."""
    m, n, at = work.m, work.n, COLUMN_SUM * work.padded + first
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
    t0 = splat(work.rows, 0.0)
    t1, t2, t3 = t0, t0, t0
    for i in range(m):
        k, w = i * n, load(work.rows, WEIGHT * m + i)
        t0 = fma(load(work.block, k + first), w, t0)
        t1 = fma(load(work.block, k + j1), w, t1)
        t2 = fma(load(work.block, k + j2), w, t2)
        t3 = fma(load(work.block, k + j3), w, t3)
    store(work.columns, at, t0)
    store(work.columns, at + 1, t1)
    store(work.columns, at + 2, t2)
    store(work.columns, at + 3, t3)


@njit(nogil=True)
@no_type_check
def weigh_products(work):
    """The matrix G_jk = sum_m block_mj block_mk w_m / S_m, lower triangle; leaves w / S where S was."""
    m, p = work.m, work.padded
    for i in range(m):
        s = maximum(load(work.rows, ROW_SUM * m + i), TINY)
        store(work.rows, ROW_SUM * m + i, load(work.rows, WEIGHT * m + i) / s)
    for first in range(0, p, TILE):
        _products_within(work, first)
        for other in range(0, first, TILE):
            for half in range(0, TILE, 2):
                _products_across(work, first + half, other)


@njit(nogil=True)
@no_type_check
def _products_within(work, first):
    m, n, p = work.m, work.n, work.padded
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
    g10 = splat(work.rows, 0.0)
    g20, g21, g30, g31, g32 = g10, g10, g10, g10, g10
    for i in range(m):
        k, w = i * n, load(work.rows, ROW_SUM * m + i)
        k0, k1 = load(work.block, k + first), load(work.block, k + j1)
        k2, k3 = load(work.block, k + j2), load(work.block, k + j3)
        w1, w2, w3 = k1 * w, k2 * w, k3 * w
        g10 = fma(k0, w1, g10)
        g20, g21 = fma(k0, w2, g20), fma(k1, w2, g21)
        g30, g31, g32 = fma(k0, w3, g30), fma(k1, w3, g31), fma(k2, w3, g32)
    at = SLOTS * p + first * p + first
    store(work.columns, at + p, g10)
    store(work.columns, at + 2 * p, g20)
    store(work.columns, at + 2 * p + 1, g21)
    store(work.columns, at + 3 * p, g30)
    store(work.columns, at + 3 * p + 1, g31)
    store(work.columns, at + 3 * p + 2, g32)


@njit(nogil=True)
@no_type_check
def _products_across(work, first, other):
    m, n, p = work.m, work.n, work.padded
    i0, i1 = min(first, n - 1), min(first + 1, n - 1)
    g00 = splat(work.rows, 0.0)
    g01, g02, g03, g10, g11, g12, g13 = g00, g00, g00, g00, g00, g00, g00
    for i in range(m):
        k, w = i * n, load(work.rows, ROW_SUM * m + i)
        w0, w1 = load(work.block, k + i0) * w, load(work.block, k + i1) * w
        k0, k1 = load(work.block, k + other), load(work.block, k + other + 1)
        k2, k3 = load(work.block, k + other + 2), load(work.block, k + other + 3)
        g00, g01, g02, g03 = fma(w0, k0, g00), fma(w0, k1, g01), fma(w0, k2, g02), fma(w0, k3, g03)
        g10, g11, g12, g13 = fma(w1, k0, g10), fma(w1, k1, g11), fma(w1, k2, g12), fma(w1, k3, g13)
    at = SLOTS * p + first * p + other
    for row, (a, b, c, d) in enumerate(((g00, g01, g02, g03), (g10, g11, g12, g13))):
        store(work.columns, at + row * p, a)
        store(work.columns, at + row * p + 1, b)
        store(work.columns, at + row * p + 2, c)
        store(work.columns, at + row * p + 3, d)


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
