"""Newton's method on the smaller side's potential, one problem in each lane: the compiled forward.

The dual and its elimination are described at `solve` in compiled.py. Here, per problem and with x = g / epsilon:

1. The common shift of x has a closed form (both masses agree at the optimum), so it is never iterated on: marginals
   are compared after normalisation, G_n = log(target_n / sum target) - log(c_n / sum c). At large rho that is the
   mode that sweeps are slow in.
2. The step solves (I - tau_a tau_b S) y = tau_b G, S the row-stochastic matrix of the fixed point's Jacobian; its
   midrange is removed (a shift) and its length capped, which lets small epsilon converge in few steps.
3. A step is halved until the L1 error of the marginals falls or the dual does. After three halvings, and where a
   column's mass is off by more than e^20, a fixed-point sweep is taken instead. When |x| grows, it is absorbed.

A problem that has stopped keeps its x: evaluating it again with its neighbours gives the same bits.
"""

from __future__ import annotations

from typing import no_type_check

from numba import njit

from medalign_core.solvers.transport.compiled_curvature import solve_curvature, weigh_products
from medalign_core.solvers.transport.compiled_functions import log
from medalign_core.solvers.transport.compiled_kernels import build_kernel, compare_marginals, sum_rows_and_columns
from medalign_core.solvers.transport.compiled_lanes import (
    any_lane,
    fma,
    load,
    maximum,
    minimum,
    select,
    splat,
    store,
)
from medalign_core.solvers.transport.compiled_layout import (
    ABSORBED,
    BASE,
    FAR,
    GAP,
    MARGINAL,
    MASS,
    RIGHT,
    ROW_SUM,
    SCALED,
    SLOTS,
    SOURCES,
    STEP,
    SWEEP,
    TINY,
    TOP,
    WEIGHT,
    B,
    X,
)
from medalign_core.solvers.transport.compiled_transpose import gather, scatter

CONVERGED, STALLED, LIMIT, FAILED = range(4)
LONGEST = 6.0  # of a step, in units of epsilon, from the middle
BEYOND = 20.0  # a log ratio of masses beyond which a sweep is taken
ABSORB = 10.0  # of x, beyond which float32 resolves its exponential too coarsely
HALVINGS = 3.0  # of a step, before a sweep is taken instead


@no_type_check
def _solve_blocks_of(sources):
    @njit(cache=True, nogil=True)
    @no_type_check
    def solve_blocks(problems, answers, work, constants, first_block, last_block):
        """Solve the problems of the blocks first_block, ..., last_block - 1."""
        if sources < 0:
            return
        for block in range(first_block, last_block):
            _solve_block(problems, answers, work, constants, block * work.lanes)

    return solve_blocks


solve_blocks = _solve_blocks_of(SOURCES)


@njit(nogil=True)
@no_type_check
def _solve_block(problems, answers, work, constants, first):
    zero = splat(work.rows, 0.0)
    highest = _start(problems, work, constants, first)
    last, residual, iterations = zero + FAR, zero, zero  # `last` is the error at BASE: FAR where any step will do
    halvings, status = zero, zero + LIMIT
    active = zero < 1.0
    evaluations, settled = 0, False
    while True:
        sum_rows_and_columns(work, constants, highest)
        error, slope, mass, log_ratio, row_scale = compare_marginals(work, constants, highest)
        if settled:
            break
        converged, stalled, failed = _judge(active, error, last, mass, constants)
        status = select(converged, CONVERGED, select(stalled, STALLED, select(failed, FAILED, status)))
        going_on = active & ~(converged | stalled | failed)
        if evaluations >= constants.max_iterations:
            going_on = going_on & (zero > 1.0)
        back = active & ~converged & ~going_on & (last < error)
        residual = select(active, select(back, last, error), residual)
        active = going_on
        if any_lane(back):
            _go_back(work, back)
        if not any_lane(active):
            if not any_lane(back):
                break
            settled = True  # one more look, at the points gone back to
            continue
        better = (error < last) | (slope < 0.0)  # the dual is convex: still falling here, it fell all the way
        advance, retreat = active & better, active & ~better
        swept = active
        if any_lane(advance):
            swept = _direction(work, constants)
        give_up = retreat & (halvings >= HALVINGS)
        last = select(give_up | advance & swept, FAR, select(advance, error, last))
        halvings = select(retreat & ~give_up, halvings + 1.0, 0.0)
        iterations = iterations + select(advance | give_up, 1.0, zero)
        if _move(work, constants, (active, advance, retreat, give_up)):
            highest = _read_kernel(problems, work, constants, first)
        evaluations += 1
    _write(answers, work, constants, (first, log_ratio, row_scale))
    _write_state(answers.state, work, first, (residual, iterations, status))


@njit(nogil=True)
@no_type_check
def _start(problems, work, constants, first):
    """Read a block of problems and set every potential to 0."""
    p = work.padded
    for at in range(SLOTS * p):
        store(work.columns, at, 0.0)
    gather(problems.b, first, work.columns, B * p, work.lanes)
    return _read_kernel(problems, work, constants, first)


@njit(nogil=True)
@no_type_check
def _read_kernel(problems, work, constants, first):
    gather(problems.cost, first, work.block, 0, work.lanes)
    gather(problems.a, first, work.rows, MARGINAL * work.m, work.lanes)
    return build_kernel(work, constants)


@njit(nogil=True, forceinline=True)
@no_type_check
def _judge(active, error, last, mass, constants):
    """Where the marginals fit, where they no longer improve at the precision's floor, and where they are nan."""
    converged = active & (error <= constants.tolerance)
    stalled = active & ~converged & (error <= mass * constants.floor) & ~(error < last * 0.5)
    return converged, stalled, active & (error != error)


@njit(nogil=True)
@no_type_check
def _go_back(work, lanes):
    for j in range(work.n):
        at = X * work.padded + j
        store(work.columns, at, select(lanes, load(work.columns, BASE * work.padded + j), load(work.columns, at)))


@njit(nogil=True)
@no_type_check
def _direction(work, constants):
    """Put the next step's direction into RIGHT; returns where it is a sweep."""
    n, p = work.n, work.padded
    weigh_products(work)
    far = splat(work.rows, 0.0)
    for j in range(n):
        gap, mass = load(work.columns, GAP * p + j), load(work.columns, MASS * p + j)
        far = maximum(far, maximum(gap, gap * -1.0))
        store(work.columns, RIGHT * p + j, gap * mass)
        v = load(work.columns, SCALED * p + j)
        for k in range(j):
            at = SLOTS * p + j * p + k
            store(work.columns, at, load(work.columns, at) * (v * load(work.columns, SCALED * p + k)))
    solve_curvature(work, 1.0 - constants.slack, constants.slack)
    swept = far > BEYOND
    high, low = splat(work.rows, -FAR), splat(work.rows, FAR)
    for j in range(n):
        weighty = load(work.columns, B * p + j) > 0.0
        y = select(swept, load(work.columns, GAP * p + j), load(work.columns, RIGHT * p + j))
        store(work.columns, RIGHT * p + j, y)
        high, low = maximum(high, select(weighty, y, -FAR)), minimum(low, select(weighty, y, FAR))
    middle, half = (high + low) * 0.5, (high - low) * 0.5
    scale = select(swept, 1.0, minimum(LONGEST / maximum(half, TINY), splat(work.rows, 1.0)))
    for j in range(n):
        y = (load(work.columns, RIGHT * p + j) - middle) * scale
        store(work.columns, RIGHT * p + j, select(load(work.columns, B * p + j) > 0.0, y, 0.0))
    return swept


@njit(nogil=True)
@no_type_check
def _move(work, constants, lanes):
    """Take the new step where lanes advance, half the old one where they retreat, a sweep where they give up.

    Returns whether x was absorbed.
    """
    active, advance, retreat, give_up = lanes
    n, p = work.n, work.padded
    far = splat(work.rows, 0.0)
    for j in range(n):
        x, step = load(work.columns, X * p + j), load(work.columns, STEP * p + j)
        base = select(advance, x, load(work.columns, BASE * p + j))
        sweep = select(advance, load(work.columns, GAP * p + j), load(work.columns, SWEEP * p + j))
        step = select(advance, load(work.columns, RIGHT * p + j), select(retreat, step * 0.5, step))
        step = select(give_up, sweep, step)
        x = select(active, base + step, x)
        far = maximum(far, select(active, maximum(x, x * -1.0), 0.0))
        store(work.columns, SWEEP * p + j, sweep)
        store(work.columns, BASE * p + j, base)
        store(work.columns, STEP * p + j, step)
        store(work.columns, X * p + j, x)
    absorb = far > ABSORB
    if not any_lane(absorb):
        return False
    for j in range(n):
        x = select(absorb, load(work.columns, X * p + j), 0.0)
        absorbed = fma(x, constants.epsilon, load(work.columns, ABSORBED * p + j))
        store(work.columns, ABSORBED * p + j, absorbed)
        store(work.columns, X * p + j, load(work.columns, X * p + j) - x)
        store(work.columns, BASE * p + j, load(work.columns, BASE * p + j) - x)
    return True


@njit(nogil=True)
@no_type_check
def _write(answers, work, constants, state):
    """Write f, g and, where there is room for it, the plan. Potentials of atoms without weight are 0."""
    first, log_ratio, row_scale = state
    m, n, p = work.m, work.n, work.padded
    shift = log_ratio * constants.shift
    for i in range(m):
        s = maximum(load(work.rows, ROW_SUM * m + i), TINY)
        f = fma(log(s) + shift, constants.epsilon, load(work.rows, TOP * m + i)) * -constants.tau_a
        store(work.rows, ROW_SUM * m + i, select(load(work.rows, MARGINAL * m + i) > 0.0, f, 0.0))
    scatter(work.rows, ROW_SUM * m, answers.f, first, work.lanes)
    for j in range(n):
        x = load(work.columns, X * p + j) + shift
        g = fma(x, constants.epsilon, load(work.columns, ABSORBED * p + j))
        store(work.columns, RIGHT * p + j, select(load(work.columns, B * p + j) > 0.0, g, 0.0))
    scatter(work.columns, RIGHT * p, answers.g, first, work.lanes)
    if answers.plan.shape[0] == 0:
        return
    for i in range(m):
        w = load(work.rows, WEIGHT * m + i) * row_scale
        for j in range(n):
            at = i * n + j
            store(work.block, at, load(work.block, at) * (w * load(work.columns, SCALED * p + j)))
    scatter(work.block, 0, answers.plan, first, work.lanes)


@njit(nogil=True)
@no_type_check
def _write_state(state, work, first, values):
    store(work.columns, RIGHT * work.padded, values[0])
    store(work.columns, RIGHT * work.padded + 1, values[1])
    store(work.columns, RIGHT * work.padded + 2, values[2])
    scatter(work.columns, RIGHT * work.padded, state, first, work.lanes)
