"""The dual with its row side eliminated: a function of N column potentials, evaluated for a chunk of problems.

With x = g / eps and reference weights alpha, beta (a, b, or 1 for the counting measure)
    Z_m = sum_n beta_n e^{x_n - C_mn / eps},   p_mn = beta_n e^{x_n - C_mn / eps} / Z_m,
    f_m = tau_a eps (log(a_m / alpha_m) - log Z_m),   r_m = a_m e^{-f_m / rho_a} (row masses),   T_mn = r_m p_mn.
What remains is convex in x, with gradient c - b e^{-g / rho_b}, c = T' 1 = p' r.

Four things keep it exact at small epsilon and large rho in float32. The row minimum of C is subtracted before any exp
and added back to f, so every row of the kernel has a 1 in it. Where x moves far the kernel absorbs it (Schmitzer 2019),
so every row still has one. Row and column masses are kept as a log mass and a distribution that sums to 1, so a mass of
e^{-300} is no zero. And the common shift x + k, along which Sinkhorn is slow and Newton's matrix is nearly singular, is
solved in closed form (translation invariance: Sejourne, Vialard and Peyre 2022):
    R e^{k / (rho_a + eps)} = B e^{-k / rho_b},   R = sum_m r_m,   B = sum_n b_n e^{-g_n / rho_b}.

Arrays are (P, N, M), columns first: reductions over N then run along contiguous memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.solvers.transport import host
from medalign_core.solvers.transport.problem import Constants, Problem

KERNEL_SPAN = 40.0  # in units of the exponent: e^{-2 span} is still a normal float32


@dataclass(frozen=True)
class Reduced:
    """A chunk of problems, ready to be evaluated.

    Attributes:
        exponent: E = -(C - min_n C) / eps, -inf in columns without weight; None for narrow problems.
        kernel: exp(E + absorbed - peak); None where the host may not look at x to see whether it still holds: there
            every evaluation takes its own exp.
        absorbed: the x that the kernel has absorbed, 0 at first and always for narrow problems.
        peak: max_n (E + absorbed).
        row_low: min_n C, over live columns.
        row_log: log r_m less slack_a log Z_m.
        row_top: the largest of row_log + slack_a peak.
        row_weight: exp of that less row_top; None where rows are soft and there is no kernel.
        log_b: log b, 0 in columns without weight.
        log_beta: log of the reference weight, -inf in columns without weight.
        live: columns with weight; None where all have.
        a: the row weights.
        room: written to by every evaluation; fresh memory costs more than the arithmetic on it.
        constants: eps, rho_a, rho_b and the reference.
    """

    exponent: Float[Tensor, "P N M"] | None
    kernel: Float[Tensor, "P N M"] | None
    absorbed: Float[Tensor, "P N"]
    peak: Float[Tensor, "P M"]
    row_low: Float[Tensor, "P M"]
    row_log: Float[Tensor, "P M"]
    row_top: Float[Tensor, "P 1"]
    row_weight: Float[Tensor, "P M"] | None
    log_b: Float[Tensor, "P N"]
    log_beta: Float[Tensor, "P N"]
    live: Bool[Tensor, "P N"] | None
    a: Float[Tensor, "P M"]
    room: Float[Tensor, "P N M"]
    constants: Constants

    def take(self, rows: Tensor) -> Reduced:
        """Return some of the problems."""
        kept: dict[str, Any] = {"room": self.room[: len(rows)], "constants": self.constants}
        parts: dict[str, Any] = {
            name: None if x is None else x[rows] for name, x in vars(self).items() if name not in kept
        }
        return Reduced(**parts, **kept)


def is_narrow(problem: Problem) -> Bool[Tensor, " P"]:
    """Return the problems whose kernel exp(-C / eps) may be formed once and kept."""
    return problem.span <= KERNEL_SPAN * problem.constants.epsilon


def reduce(problem: Problem, *, narrow: bool) -> Reduced:
    """Prepare a chunk; `narrow` says that all of it passed `is_narrow`."""
    a, b, constants = problem.a, problem.b, problem.constants
    cost = problem.cost.detach().transpose(1, 2).clone(memory_format=torch.contiguous_format)  # written to below
    live: Tensor | None = b > 0
    assert live is not None
    if host.may_read(cost) and bool(live.all()):
        live = None
    else:
        cost = torch.where(live[:, :, None], cost, torch.inf)
    row_low = cost.amin(dim=1)
    exponent = cost.sub_(row_low[:, None, :]).mul_(-1 / constants.epsilon)
    log_a, log_b = _log(a), _log(b) if live is None else torch.where(live, b, 1.0).log()
    log_beta = torch.zeros_like(log_b) if constants.counting else log_b
    row_log = log_a * (constants.tau_a if constants.counting else 1.0)
    if not math.isinf(constants.rho_a):
        row_log = row_log - row_low / (constants.rho_a + constants.epsilon)
    row_top = row_log.amax(dim=1, keepdim=True)
    keeps_kernel = narrow or host.may_read(cost)
    return Reduced(
        exponent=None if narrow else exponent,
        kernel=exponent.exp_() if narrow else exponent.exp() if keeps_kernel else None,
        absorbed=torch.zeros_like(log_b),
        peak=row_low.new_zeros(1, 1).expand_as(row_low) if narrow else torch.zeros_like(row_low),
        row_low=row_low,
        row_log=row_log,
        row_top=row_top,
        row_weight=(row_log - row_top).exp() if keeps_kernel or math.isinf(constants.rho_a) else None,
        log_b=log_b,
        log_beta=log_beta if live is None else torch.where(live, log_beta, -torch.inf),
        live=live,
        a=a,
        room=torch.empty_like(exponent),
        constants=constants,
    )


def _log(weight: Tensor) -> Tensor:
    """Return the log, of one row only where an expanded tensor repeats it."""
    rows, columns = (slice(0, 1) if stride == 0 else slice(None) for stride in weight.stride())
    return weight[rows, columns].log().expand_as(weight)
