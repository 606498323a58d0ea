"""Compiled entry points for batched entropic transport: potentials, plans and their gradient, NumPy in and out.

The problem, for each p of a batch, with T = T_mn >= 0 and KL(x | y) = sum x log(x / y) - x + y:

    min_T <T, C> + epsilon KL(T | a b') + rho_a KL(T 1 | a) + rho_b KL(T' 1 | b);        rho = inf: T 1 = a, T' 1 = b.

Its solution is T_mn = a_m b_n exp((f_m + g_n - C_mn) / epsilon) where, with tau = rho / (rho + epsilon) (Chizat, Peyre,
Schmitzer and Vialard 2018, "Scaling algorithms for unbalanced optimal transport problems"),

    f_m = -tau_a epsilon log sum_n b_n exp((g_n - C_mn) / epsilon),    g_n likewise with a, f and tau_b.

The kernels run one problem per lane of a vector register and blocks of problems on `threads` threads. Arrays are
C-contiguous, all float32 or all float64. An atom with weight 0 is as if it were not there; its potential is 0.
An answer depends on its problem alone: not on the batch around it, nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import e, inf, isinf, log2

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.transport.compiled_lanes import BYTES
from medalign_core.solvers.transport.compiled_layout import SLOTS, TILE, Answers, Constants, Problems, Work
from medalign_core.solvers.transport.compiled_newton import CONVERGED, FAILED, LIMIT, STALLED, solve_blocks
from medalign_core.solvers.transport.compiled_plan import backward_blocks, plan_blocks

WIDEST = 32  # columns (N) at most: the caller transposes so that the smaller side is N
STATUSES = (CONVERGED, STALLED, LIMIT, FAILED)
_STRIP = 320  # lane vectors of a block worked on at once: 20 KiB, which stay in the first-level cache

Potentials = tuple[
    Float[np.ndarray, "P M"],
    Float[np.ndarray, "P N"],
    Int[np.ndarray, " P"],
    Float[np.ndarray, " P"],
    Int[np.ndarray, " P"],
]


def solve(
    cost: Float[np.ndarray, "P M N"],
    a: Float[np.ndarray, "#P M"],
    b: Float[np.ndarray, "#P N"],
    *,
    epsilon: float,
    rho_a: float = inf,
    rho_b: float = inf,
    tol: float = 1e-6,
    max_iterations: int = 100,
    threads: int = 1,
    plan_out: Float[np.ndarray, "P M N"] | None = None,
) -> Potentials:
    """Solve a batch by Newton's method on g, f being eliminated (see the head of compiled_newton.py).

    With Z_m = sum_n b_n exp((g_n - C_mn) / epsilon), r_m = a_m Z_m^(1 - tau_a) and the row-stochastic T_mn / r_m, the
    column masses are c = T' 1. A step y of g / epsilon solves (diag(c) - tau_a tau_b T' diag(1 / r) T) y = c tau_b G,
    G_n the log of target over mass after the common shift that makes the masses agree.

    Args:
        cost: C, finite or +inf.
        a: Weights of the rows, not negative; one row (1, M) is shared by the batch.
        b: Weights of the columns, likewise; N is at most 32, and the work grows with N^2.
        epsilon: Entropic weight, > 0, in units of cost.
        rho_a: Weight of the row marginal in (0, inf]; inf holds it hard.
        rho_b: Weight of the column marginal in (0, inf].
        tol: L1 error sum_n |c_n - b_n e^(-g_n / rho_b)| at which a problem stops; the rows' error is 0 by construction.
        max_iterations: Evaluations of the marginals after the first, those of halved steps included.
        threads: Threads that share the batch.
        plan_out: Where to write the plans; more exact than from the potentials, which float32 rounds at small epsilon.

    Returns:
        f (P, M), g (P, N), steps taken (P,), the L1 error reached (P,) and status (P,): 0 converged; 1 stalled at the
        precision's floor (about 1e-6 of the mass in float32); 2 out of iterations; 3 a nan.
        Where both sides are hard, g + k and f - k are as good for any k.

    Raises:
        TypeError: arrays that are not all float32 or all float64.
        ValueError: shapes that do not fit, N above 32, epsilon, rho, tol or threads out of range.
    """
    count, m, n = cost.shape
    dtype = _checked(cost, a, b, *(() if plan_out is None else (plan_out,)))
    f, g = np.empty((count, m), dtype), np.empty((count, n), dtype)
    state = np.empty((count, 3), dtype)
    plan = np.empty((0, m * n), dtype) if plan_out is None else plan_out.reshape(count, m * n)
    problems = Problems(_flat(cost), _rows(a, (count, m)), _rows(b, (count, n)))
    answers = Answers(f, g, plan, state)
    constants = _constants(epsilon, rho_a, rho_b, dtype)._replace(tolerance=tol, max_iterations=max_iterations)
    _spread(
        lambda work, first, last: solve_blocks(problems, answers, work, constants, first, last),
        lambda: _work(m, n, dtype),
        count,
        threads,
    )
    residual, iterations, status = state.T
    return f, g, iterations.astype(np.int32), residual.copy(), status.astype(np.int32)


def plan(
    cost: Float[np.ndarray, "P M N"],
    a: Float[np.ndarray, "#P M"],
    b: Float[np.ndarray, "#P N"],
    f: Float[np.ndarray, "P M"],
    g: Float[np.ndarray, "P N"],
    *,
    epsilon: float,
    threads: int = 1,
) -> Float[np.ndarray, "P M N"]:
    """Return T_mn = a_m b_n exp((f_m + g_n - C_mn) / epsilon).

    Raises:
        TypeError: arrays that are not all float32 or all float64.
        ValueError: shapes that do not fit, N above 32, epsilon or threads out of range.
    """
    count, m, n = cost.shape
    dtype = _checked(cost, a, b, f, g)
    result = np.empty((count, m, n), dtype)
    problems = Problems(_flat(cost), _rows(a, (count, m)), _rows(b, (count, n)))
    potentials = np.ascontiguousarray(f), np.ascontiguousarray(g)
    answers = Answers(*potentials, result.reshape(count, m * n), np.empty((0, 3), dtype))
    constants = _constants(epsilon, inf, inf, dtype)
    _spread(
        lambda work, first, last: plan_blocks(problems, answers, work, constants, first, last),
        lambda: _work(m, n, dtype),
        count,
        threads,
    )
    return result


def plan_backward(
    plan: Float[np.ndarray, "P M N"],
    grad_plan: Float[np.ndarray, "P M N"],
    *,
    epsilon: float,
    rho_a: float = inf,
    rho_b: float = inf,
    threads: int = 1,
) -> Float[np.ndarray, "P M N"]:
    """Return d<W, T(C)> / dC for W = grad_plan at a solution T = plan, through the optimality conditions.

    With r = T 1, c = T' 1, alpha = (W * T) 1, beta = (W * T)' 1 and
    (diag(c) - tau_a tau_b T' diag(1 / r) T) mu = beta - tau_a T' (alpha / r), one N x N system per problem:

        dC_mn = T_mn (tau_a (alpha - tau_b T mu)_m / r_m + tau_b mu_n - W_mn) / epsilon.

    Raises:
        TypeError: arrays that are not all float32 or all float64.
        ValueError: shapes that differ, N above 32, epsilon, rho or threads out of range.
    """
    count, m, n = plan.shape
    dtype = _checked(plan, grad_plan)
    result = np.empty((count, m, n), dtype)
    tables = _flat(plan), _flat(grad_plan), result.reshape(count, m * n)
    constants = _constants(epsilon, rho_a, rho_b, dtype)
    _spread(
        lambda work, first, last: backward_blocks(*tables, work, constants, first, last),
        lambda: _work(m, n, dtype, tables=2),
        count,
        threads,
    )
    return result


def _spread(run: Callable[[Work, int, int], None], make_work: Callable[[], Work], count: int, threads: int) -> None:
    """Run the blocks of `count` problems, contiguous shares of them on each thread."""
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}.")
    work = make_work()
    blocks = -(-count // work.lanes)
    threads = min(threads, blocks)
    if threads <= 1:
        run(work, 0, blocks)
        return
    bounds = [blocks * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        shares = zip(bounds[:-1], bounds[1:], strict=True)
        futures = [pool.submit(run, make_work(), first, last) for first, last in shares]
        for future in futures:
            future.result()


def _checked(*arrays: np.ndarray) -> np.dtype:
    dtype = arrays[0].dtype
    if dtype not in (np.float32, np.float64) or any(array.dtype != dtype for array in arrays):
        raise TypeError(f"arrays must all be float32 or all float64, got {[str(array.dtype) for array in arrays]}.")
    n = arrays[0].shape[2]
    if not 1 <= n <= WIDEST or not arrays[0].shape[1]:
        raise ValueError(f"cost must be (P, M, N) with M >= 1 and 1 <= N <= {WIDEST}, got {arrays[0].shape}.")
    return dtype


def _flat(table: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(table).reshape(table.shape[0], table.shape[1] * table.shape[2])


def _rows(weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Weights as kernels read them: (P, E), or (1, E) for what every problem shares (a broadcast view included)."""
    if weights.shape not in (shape, (1, shape[1])):
        raise ValueError(f"weights must be {shape} or {(1, shape[1])}, got {weights.shape}.")
    shared = weights.shape[0] > 1 and weights.strides[0] == 0
    return np.ascontiguousarray(weights[:1] if shared else weights)


def _constants(epsilon: float, rho_a: float, rho_b: float, dtype: np.dtype) -> Constants:
    if not 0 < epsilon < inf:
        raise ValueError(f"epsilon must be in (0, inf), got {epsilon}.")
    for name, rho in (("rho_a", rho_a), ("rho_b", rho_b)):
        if not rho > 0:
            raise ValueError(f"{name} must be > 0 (inf = balanced), got {rho}.")
    rest_a = 0.0 if isinf(rho_a) else epsilon / (rho_a + epsilon)  # 1 - tau_a
    rest_b = 0.0 if isinf(rho_b) else epsilon / (rho_b + epsilon)
    q = 0.0 if isinf(rho_b) else epsilon / rho_b
    both = rest_a + q
    return Constants(
        epsilon=float(epsilon),
        inverse_epsilon=1 / epsilon,
        inverse_epsilon2=log2(e) / epsilon,
        tau_a=1 - rest_a,
        tau_b=1 - rest_b,
        row_scale=rest_a / epsilon,
        row_scale2=log2(e) * rest_a / epsilon,
        slack=rest_a + rest_b - rest_a * rest_b,
        q=q,
        shift_a=rest_a / both if both else 0.0,
        shift=1 / both if both else 0.0,
        tolerance=0.0,
        floor=64 * float(np.finfo(dtype).eps),
        max_iterations=0,
    )


def _work(m: int, n: int, dtype: np.dtype, *, tables: int = 1) -> Work:
    padded = -(-n // TILE) * TILE
    lanes = BYTES // dtype.itemsize
    return Work(
        block=_aligned(tables * m * n, dtype),
        rows=_aligned(4 * m, dtype),
        columns=_aligned((SLOTS + padded) * padded, dtype),
        m=m,
        n=n,
        padded=padded,
        strip=max(4, _STRIP // n),
        lanes=lanes,
    )


def _aligned(vectors: int, dtype: np.dtype) -> np.ndarray:
    """Scratch for lane vectors that start at multiples of their size."""
    items = BYTES // dtype.itemsize
    raw = np.empty((vectors + 1) * items, dtype)
    skip = -raw.ctypes.data % BYTES // dtype.itemsize
    return raw[skip : skip + vectors * items]
