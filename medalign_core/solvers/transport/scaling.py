"""Sinkhorn's alternating updates on the reduced dual, plain or with the optimal common shift."""

from __future__ import annotations

import torch

from medalign_core.solvers.transport.evaluation import column_share, evaluate_columns, evaluate_rows
from medalign_core.solvers.transport.outcome import Evaluation, Outcome, Progress, settle
from medalign_core.solvers.transport.reduced import Reduced


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
    out = Outcome.empty(reduced.room.transpose(1, 2))
    x = torch.zeros_like(reduced.log_b)
    progress = Progress.start(x, falling=1.0)
    for count in range(max_sweeps + 1):
        last = count == max_sweeps
        rows = evaluate_rows(reduced, x)
        columns = evaluate_columns(reduced, x, *column_share(rows), shifted=shifted)
        left = settle(out, progress, Evaluation(reduced, rows, columns, count), tol=tol, last=last)
        if last or left == 0:
            break
        x = columns.x + columns.fixed_point
        if left is not None and 2 * left <= len(x):
            running = progress.running.nonzero()[:, 0]
            reduced, x, progress = reduced.take(running), x[running], progress.take(running)
    return out
