"""Optimal transport between weighted sets, balanced and unbalanced, for a batch of problems: the settings and the call.

Importing this module imports no torch: a recipe may hold the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medalign_core.solvers.transport.status import Status

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from medalign_core.solvers.transport.result import Transport

__all__ = ["Sinkhorn", "Status", "Transport"]

METHODS = ("newton", "sinkhorn", "translation_invariant", "exact", "mm")
GRADIENTS = ("envelope", "detach", "implicit", "unroll")


@dataclass(frozen=True, kw_only=True)
class Sinkhorn:
    """Entropic optimal transport, balanced or unbalanced on one or both sides.

        V = min_T <T, C> + eps KL(T | a b') + rho_a KL(T 1 | a) + rho_b KL(T' 1 | b),
        KL(p | q) = sum p log(p / q) - p + q.

    The dual maximises sum rho_a a (1 - e^{-f / rho_a}) + sum rho_b b (1 - e^{-g / rho_b})
    + eps sum a b (1 - e^{(f + g - C) / eps}) over f and g, and T = a b e^{(f + g - C) / eps} (Chizat et al. 2018).

    `newton` needs 3 steps where Sinkhorn needs 70 sweeps (eps 0.1, rho 1) and 8 where it needs thousands (eps 0.01,
    rho 100): it eliminates the larger side and solves an N x N system in the smaller one. `sinkhorn` alternates the two
    closed-form updates, its kernel stabilised or in the log domain as the costs ask; `translation_invariant` adds the
    optimal common shift after each (Sejourne, Vialard and Peyre 2022). `exact` (no entropy, both rho infinite) and `mm`
    (no entropy, both rho finite) call POT, one problem after another on the CPU; their plan is a constant for autograd.

    Attributes:
        epsilon: weight of the entropy, > 0, in units of the cost; POT's `reg`.
        rho: weight of both marginal penalties, in (0, inf]; inf makes them constraints. POT's `reg_m`; OTT's tau is
            rho / (rho + epsilon).
        rho_a: that of the rows, in place of rho.
        rho_b: that of the columns, in place of rho.
        tol: L1 error of both marginals at which a problem has converged, > 0, in units of mass. float32 reaches 1e-6 at
            eps 0.1 and less at smaller eps; then a problem ends STALLED.
        max_iterations: most steps or sweeps; None: 100 steps of newton, 2000 sweeps. On the CPU a batch ends with its
            last problem. On CUDA exactly this many run under masks, since to ask would make the host wait; there None
            is 16 steps, 200 sweeps.
        method: see above.
        gradient: how plan() depends on the cost, see Transport. "envelope" and "detach" say the same of the plan, that
            it is a constant: exact for V (and for the score "value"), the published choice for <T, S>.
        reference: "kl", relative to a b', unchanged by splitting an atom in two; or "counting", relative to 1, as POT's
            `reg_type="entropy"` and OTT iterate.
        backend: "torch"; "compiled" (numba, newton on the CPU, smaller side <= 32); "auto" takes that where it can.
            The result says which ran.
    """

    epsilon: float = 0.1
    rho: float = math.inf
    rho_a: float | None = None
    rho_b: float | None = None
    tol: float = 1e-6
    max_iterations: int | None = None
    method: Literal["newton", "sinkhorn", "translation_invariant", "exact", "mm"] = "newton"
    gradient: Literal["envelope", "detach", "implicit", "unroll"] = "envelope"
    reference: Literal["kl", "counting"] = "kl"
    backend: Literal["auto", "torch", "compiled"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epsilon", "tol"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and > 0, got {value}.")
        for name in ("rho", "rho_a", "rho_b"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be > 0 (inf = a hard constraint), got {value}.")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise ValueError(f"max_iterations must be >= 1, got {self.max_iterations}.")
        for name, known in (
            ("method", METHODS),
            ("gradient", GRADIENTS),
            ("reference", ("kl", "counting")),
            ("backend", ("auto", "torch", "compiled")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        self._check_combination()

    def _check_combination(self) -> None:
        rho_a, rho_b = self.both_rho
        if self.gradient == "unroll" and self.method != "sinkhorn":
            raise ValueError(
                f'gradient="unroll" differentiates sweeps: method must be "sinkhorn", got {self.method!r}.'
            )
        if self.method in ("exact", "mm") and self.gradient == "implicit":
            raise ValueError(
                f'the plan of method={self.method!r} has no implicit gradient; take "envelope" or "detach".'
            )
        if self.method == "exact" and not (math.isinf(rho_a) and math.isinf(rho_b)):
            raise ValueError('method="exact" is balanced: leave rho at inf, or take method="mm".')
        if self.method == "mm" and (math.isinf(rho_a) or math.isinf(rho_b)):
            raise ValueError('method="mm" needs a finite rho on both sides; take method="exact" for a balanced plan.')
        if self.backend == "compiled" and self.method != "newton":
            raise ValueError(f'backend="compiled" has method="newton" only, got {self.method!r}.')

    @property
    def both_rho(self) -> tuple[float, float]:
        """The penalty of the rows and that of the columns."""
        return (
            float(self.rho if self.rho_a is None else self.rho_a),
            float(self.rho if self.rho_b is None else self.rho_b),
        )

    def __call__(
        self,
        cost: Float[Tensor, "P M N"],
        a: Tensor | None = None,
        b: Tensor | None = None,
        *,
        valid_a: Bool[Tensor, "P M"] | None = None,
        valid_b: Bool[Tensor, "P N"] | None = None,
    ) -> Transport:
        """Solve P problems.

        A problem's answer does not depend on the others. float32, float64 or half precision, which is computed in
        float32. The gradient with respect to the cost is kept; a and b may not require one.

        Args:
            cost: C, finite.
            a: (P, M) or (M,), row weights >= 0; None is uniform with sum 1.
            b: (P, N) or (N,), column weights, likewise.
            valid_a: True where a row exists; the others have no weight and their costs may be anything.
            valid_b: True where a column exists, likewise.

        Raises:
            ValueError: shapes that do not fit; on the CPU also NaN, infinite or too large costs, negative weights, a
                problem without mass, masses that differ where both sides are hard. (On CUDA such a problem is FAILED.)
            TypeError: a cost that is not floating.
        """
        from medalign_core.solvers.transport.solve import solve

        return solve(self, cost, a, b, valid_a=valid_a, valid_b=valid_b)

    def score(
        self,
        v: Float[Tensor, "B M D"],
        g: Float[Tensor, "C N D"],
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        valid_a: Bool[Tensor, "B M"] | None = None,
        valid_b: Bool[Tensor, "C N"] | None = None,
        score: Literal["sim", "norm_sim", "value"] = "sim",
        pairs: int | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return how well each of B sets fits each of C, from their vectors: C_mn = 1 - S_mn, S_mn = <v_m, g_n>.

        Chunks of classes are solved one after another, forward and again in the backward pass, so that neither S nor T
        is ever whole: beside the inputs (B, C, N) potentials are kept.

        Args:
            v: one set of M vectors per sample, e.g. visual tokens; of unit length for cosines.
            g: one set of N vectors per class, e.g. prompts.
            a: (B, M) or (M,), weights of v; None is uniform.
            b: (C, N) or (N,), weights of g; None is uniform.
            valid_a: True where a vector of v exists.
            valid_b: True where a vector of g exists.
            score: "sim" is <T, S>; "norm_sim" is <T, S> / mass, for plans whose mass differs by class; "value" is -V.
                For fully relaxed problems of unit mass -V = (eps + rho_a + rho_b) (mass - 1): the same classifier as
                the mass, not as <T, S>.
            pairs: (sample, class) problems in a chunk; None: as many as keep 2^24 entries of S at a time.

        Returns:
            Scores, differentiable by v and g as `gradient` says ("unroll" is not offered).

        Raises:
            ValueError: as for a call; gradient="unroll"; methods "exact" and "mm".
        """
        from medalign_core.solvers.transport.factors import Weights, score_factors

        weights = Weights(a=a, b=b, valid_a=valid_a, valid_b=valid_b)
        return score_factors(self, v, g, weights=weights, score=score, pairs=pairs)


def __getattr__(name: str) -> Any:
    if name == "Transport":
        from medalign_core.solvers.transport.result import Transport

        return Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
