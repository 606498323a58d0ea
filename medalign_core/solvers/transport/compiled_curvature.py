"""The N x N system that a Newton step and a plan's gradient solve, one problem in each lane.

Four columns at a time stay in registers while a loop runs over a strip of rows.
"""

from __future__ import annotations

from typing import no_type_check

from numba import njit

from medalign_core.solvers.transport.compiled_lanes import fma, load, maximum, select, store, store_four
from medalign_core.solvers.transport.compiled_layout import (
    EXCESS,
    GAP,
    INVERSE,
    MASS,
    RIGHT,
    ROW_SUM,
    SLOTS,
    TILE,
    TINY,
    WEIGHT,
)


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
    store_four(work.columns, at - p, (g00, g01, g02, g03))
    store_four(work.columns, at, (g10, g11, g12, g13))


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
