"""Compiled entry points for batched entropic transport: potentials, plans and their gradient, NumPy in and out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf, isinf

import numpy as np
from jaxtyping import Float, Int

from medalign_core.solvers.transport.compiled_kernels import SLOTS, TILE, Constants, Work
from medalign_core.solvers.transport.compiled_lanes import BYTES
from medalign_core.solvers.transport.compiled_newton import Answers, Problems, solve_blocks

WIDEST = 32


def solve(
    cost: Float[np.ndarray, "P M N"],
    a: Float[np.ndarray, "#P M"],
    b: Float[np.ndarray, "#P N"],
    *,
    epsilon: float,
    rho_a: float = inf,
    rho_b: float = inf,
    tol: float = 1e-6,
    max_iterations: int = 50,
    threads: int = 1,
    plan_out=None,
):
    P, m, n = cost.shape
    f, g = np.empty((P, m), cost.dtype), np.empty((P, n), cost.dtype)
    residual, iterations, status = (np.empty((P, 1), cost.dtype) for _ in range(3))
    plan = np.empty((0, m * n), cost.dtype) if plan_out is None else plan_out.reshape(P, m * n)
    problems = Problems(cost.reshape(P, m * n), a, b)
    answers = Answers(f, g, plan, residual, iterations, status)
    constants = _constants(epsilon, rho_a, rho_b, tol, max_iterations, cost.dtype)
    work = _work(m, n, cost.dtype)
    solve_blocks(problems, answers, work, constants, 0, -(-P // work.lanes))
    return f, g, iterations[:, 0].astype(np.int32), residual[:, 0], status[:, 0].astype(np.int32)


def _constants(epsilon, rho_a, rho_b, tol, max_iterations, dtype):
    one_a = 0.0 if isinf(rho_a) else epsilon / (rho_a + epsilon)
    one_b = 0.0 if isinf(rho_b) else epsilon / (rho_b + epsilon)
    q = 0.0 if isinf(rho_b) else epsilon / rho_b
    d = one_a + q
    return Constants(
        epsilon, 1 / epsilon, 1 - one_a, 1 - one_b, one_a + one_b - one_a * one_b, q,
        one_a / d if d else 0.0, q / d if d else 0.0, 1 / d if d else 0.0, tol, 32 * float(np.finfo(dtype).eps), max_iterations,
    )


def _aligned(vectors, dtype):
    items = BYTES // np.dtype(dtype).itemsize
    raw = np.empty((vectors + 1) * items, dtype)
    skip = -raw.ctypes.data % BYTES // raw.itemsize
    return raw[skip : skip + vectors * items]


def _work(m, n, dtype):
    p = -(-n // TILE) * TILE
    return Work(
        _aligned(m * n, dtype), _aligned(4 * m, dtype), _aligned((SLOTS + p) * p, dtype), m, n, p,
        BYTES // np.dtype(dtype).itemsize,
    )
