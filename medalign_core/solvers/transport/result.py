"""What a transport solver returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Transport:
    """The solutions of P problems.

    Attributes:
        f: row potentials; T_mn = a_m b_n exp((f_m + g_n - C_mn) / eps), without a_m b_n under the counting reference.
            0 for atoms without weight. Constants for autograd unless gradient="unroll".
        g: column potentials, likewise. Where both sides are hard, f + k and g - k say the same.
        value: the optimal value V; its gradient by the cost is T in every gradient mode (through the sweeps in
            "unroll"). Not for method "exact" and "mm", whose value is that of the problem without entropy.
        mass: sum of T, without gradient: take plan().sum((1, 2)) for one.
        status: a Status each.
        iterations: steps (newton, mm) or sweeps (sinkhorn, translation_invariant) taken; 0 for "exact".
        residual: L1 error of the marginals' fixed-point equations, in the units of a and b.
        backend: the path that ran, "torch", "compiled" or "pot".
    """

    f: Float[Tensor, "P M"]
    g: Float[Tensor, "P N"]
    value: Float[Tensor, " P"]
    mass: Float[Tensor, " P"]
    status: Int[Tensor, " P"]
    iterations: Int[Tensor, " P"]
    residual: Float[Tensor, " P"]
    backend: str
    make_plan: Callable[[], Tensor] = field(repr=False)

    def plan(self) -> Float[Tensor, "P M N"]:
        """Return T, made anew at every call; how it is differentiable is the solver's `gradient`.

        "implicit": by the implicit function theorem. "unroll": through the sweeps. "envelope", "detach": a constant, so
        that <T, S> has exactly T as its gradient by S.
        """
        return self.make_plan()
