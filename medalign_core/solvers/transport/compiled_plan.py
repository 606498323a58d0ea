"""The plan of given potentials, and the implicit gradient of a plan, one problem in each lane.

Formulas stand at `plan` and `plan_backward` in compiled.py.
"""

from __future__ import annotations

from typing import no_type_check

from numba import njit

from medalign_core.solvers.transport.compiled_curvature import solve_curvature, weigh_products
from medalign_core.solvers.transport.compiled_functions import exp
from medalign_core.solvers.transport.compiled_lanes import fma, load, maximum, splat, store, store_four
from medalign_core.solvers.transport.compiled_layout import (
    COLUMN_SUM,
    GAP,
    MARGINAL,
    MASS,
    RIGHT,
    ROW_SUM,
    SOURCES,
    TILE,
    TINY,
    TOP,
    WEIGHT,
    B,
    X,
)
from medalign_core.solvers.transport.compiled_transpose import gather, scatter


@no_type_check
def _plan_blocks_of(sources):
    @njit(cache=True, nogil=True)
    @no_type_check
    def plan_blocks(problems, answers, work, constants, first_block, last_block):
        """Write the plans of the blocks first_block, ..., last_block - 1 from their potentials."""
        if sources < 0:
            return
        m, n, p = work.m, work.n, work.padded
        for block in range(first_block, last_block):
            first = block * work.lanes
            gather(problems.cost, first, work.block, 0, work.lanes)
            gather(problems.a, first, work.rows, MARGINAL * m, work.lanes)
            gather(problems.b, first, work.columns, B * p, work.lanes)
            gather(answers.f, first, work.rows, TOP * m, work.lanes)
            gather(answers.g, first, work.columns, X * p, work.lanes)
            for i in range(m):
                a, f = load(work.rows, MARGINAL * m + i), load(work.rows, TOP * m + i)
                for j in range(n):
                    reach = f + load(work.columns, X * p + j) - load(work.block, i * n + j)
                    mass = a * load(work.columns, B * p + j) * exp(reach * constants.inverse_epsilon)
                    store(work.block, i * n + j, mass)
            scatter(work.block, 0, answers.plan, first, work.lanes)

    return plan_blocks


plan_blocks = _plan_blocks_of(SOURCES)


@no_type_check
def _backward_blocks_of(sources):
    @njit(cache=True, nogil=True)
    @no_type_check
    def backward_blocks(plan, gradient, target, work, constants, first_block, last_block):
        """Write the gradient with respect to the cost; `work.block` has room for two tables."""
        if sources < 0:
            return
        for block in range(first_block, last_block):
            first = block * work.lanes
            gather(plan, first, work.block, 0, work.lanes)
            gather(gradient, first, work.block, work.m * work.n, work.lanes)
            _sum_gradient(work, constants)
            weigh_products(work)
            solve_curvature(work, 1.0 - constants.slack, constants.slack)
            _combine(work, constants)
            scatter(work.block, 0, target, first, work.lanes)

    return backward_blocks


backward_blocks = _backward_blocks_of(SOURCES)


@njit(nogil=True)
@no_type_check
def _sum_gradient(work, constants):
    """Row masses r, tau_a alpha / r in TOP, column masses c and the right side beta - tau_a p' alpha."""
    m, n, p = work.m, work.n, work.padded
    zero = splat(work.rows, 0.0)
    for j in range(p):
        for slot in (COLUMN_SUM, MASS, RIGHT, GAP):
            store(work.columns, slot * p + j, zero)
    for low in range(0, m, work.strip):
        high = min(m, low + work.strip)
        for i in range(low, high):
            row_sum, alpha = zero, zero
            for k in range(i * n, i * n + n):
                mass = load(work.block, k)
                row_sum, alpha = row_sum + mass, fma(mass, load(work.block, m * n + k), alpha)
            store(work.rows, ROW_SUM * m + i, row_sum)
            store(work.rows, WEIGHT * m + i, 1.0)
            store(work.rows, TOP * m + i, alpha / maximum(row_sum, TINY) * constants.tau_a)
        for first in range(0, p, TILE):
            _sum_columns(work, first, low, high)


@njit(nogil=True)
@no_type_check
def _sum_columns(work, first, low, high):
    m, n, p = work.m, work.n, work.padded
    j1, j2, j3 = min(first + 1, n - 1), min(first + 2, n - 1), min(first + 3, n - 1)
    at, to = MASS * p + first, RIGHT * p + first
    c0, c1 = load(work.columns, at), load(work.columns, at + 1)
    c2, c3 = load(work.columns, at + 2), load(work.columns, at + 3)
    r0, r1 = load(work.columns, to), load(work.columns, to + 1)
    r2, r3 = load(work.columns, to + 2), load(work.columns, to + 3)
    for i in range(low, high):
        k, h = i * n, load(work.rows, TOP * m + i)
        t0, t1 = load(work.block, k + first), load(work.block, k + j1)
        t2, t3 = load(work.block, k + j2), load(work.block, k + j3)
        c0, c1, c2, c3 = c0 + t0, c1 + t1, c2 + t2, c3 + t3
        k += m * n
        r0, r1 = fma(t0, load(work.block, k + first) - h, r0), fma(t1, load(work.block, k + j1) - h, r1)
        r2, r3 = fma(t2, load(work.block, k + j2) - h, r2), fma(t3, load(work.block, k + j3) - h, r3)
    store_four(work.columns, at, (c0, c1, c2, c3))
    store_four(work.columns, to, (r0, r1, r2, r3))


@njit(nogil=True)
@no_type_check
def _combine(work, constants):
    """T (tau_a (alpha - tau_b T mu) / r + tau_b mu' - W) / eps, in place of T; 1 / r stands where S was."""
    m, n, p = work.m, work.n, work.padded
    for j in range(n):
        mu = load(work.columns, RIGHT * p + j) * constants.tau_b
        store(work.columns, RIGHT * p + j, mu)
    for i in range(m):
        reach = splat(work.rows, 0.0)
        for j in range(n):
            reach = fma(load(work.block, i * n + j), load(work.columns, RIGHT * p + j), reach)
        h = load(work.rows, TOP * m + i) - reach * load(work.rows, ROW_SUM * m + i) * constants.tau_a
        for j in range(n):
            at = i * n + j
            inside = h + load(work.columns, RIGHT * p + j) - load(work.block, m * n + at)
            store(work.block, at, load(work.block, at) * constants.inverse_epsilon * inside)
