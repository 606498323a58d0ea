"""Sinkhorn's alternating updates on the reduced dual, plain or with the optimal common shift, for many problems at once."""

from __future__ import annotations

import torch

from medalign_core.solvers.transport.newton import store_ended
from medalign_core.solvers.transport.outcome import Outcome, Progress
from medalign_core.solvers.transport.reduced import Reduced, column_share, evaluate_columns, evaluate_rows


def sweep(reduced: Reduced, *, tol: float, max_sweeps: int, shifted: bool) -> Outcome:
    """Solve a chunk by sweeps f <- argmax over f, g <- argmax over g of the dual (Chizat et al. 2018).

    Each update is closed: f_m = -tau_a eps log sum_n b_n e^{(g_n - C_mn) / eps}, likewise g. The error falls by
    tau_a tau_b a sweep at worst, which for large rho is hardly at all; almost all of that is the common shift, and with
    `shifted` it is solved for after each sweep (translation-invariant Sinkhorn, Sejourne et al. 2022). Where costs
    permit, the kernel exp(-(C - row minimum) / eps) is formed once and a sweep only multiplies (stabilised scaling);
    elsewhere every sweep takes its own exp (log domain).

    Args:
        reduced: the chunk.
        tol: residual at which a problem has converged.
        max_sweeps: most sweeps of a problem.
        shifted: whether the common shift is solved for.
    """
    out, on_host = Outcome.empty(reduced.problem), reduced.problem.cost.device.type == "cpu"
    x = torch.zeros_like(reduced.log_b)
    progress, place = Progress.start(x), torch.arange(len(x), device=x.device)
    for count in range(max_sweeps + 1):
        rows = evaluate_rows(reduced, x)
        columns = evaluate_columns(reduced, x, rows, column_share(rows), shifted=shifted)
        mass = columns.log_mass[:, 0].exp()
        ends = progress.update(columns.residual, mass=mass, tol=tol, last=count == max_sweeps)
        store_ended(out, reduced, columns, rows.log_z, progress, ends=ends, place=place, iteration=count)
        if count == max_sweeps or (on_host and bool((progress.status >= 0).all())):
            break
        x = columns.x + columns.fixed_point
        running = (progress.status < 0).nonzero()[:, 0] if on_host else place
        if 2 * len(running) <= len(x):
            reduced, x, progress, place = reduced.take(running), x[running], progress.take(running), place[running]
    return out
