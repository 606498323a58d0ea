"""How visual tokens and prompts are coupled: the settings of the transport in units of cosines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medalign_core.solvers.sinkhorn import Sinkhorn


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """The coupling T of M visual tokens (weights 1 / M) and N prompts (1 / N), and the score made of it.

    The cost is C = 1 - cos. It is never divided by its maximum: that of a batch would make an image's logits depend on
    the other images. Dude's working code does, with epsilon 0.01: about 0.009 in cosines.

    Attributes:
        kind: "transport", or "uniform": T = 1 / (M N), the mean of all similarities; the floor of every ablation.
        epsilon: weight of the entropy, > 0, in cosines.
        tau_a: how hard tokens hold to their weights, in (0, 1]: rho = epsilon tau / (1 - tau), 1 is a constraint.
        tau_b: likewise of the prompts. (1, 1) is balanced transport, as in PLOT; (1, 0.5) is Dude's: a prompt
            may go unused. Where tau_a < 1, tokens may as well, and T's mass differs by class.
        score: "sim" is <T, S>, "norm_sim" is <T, S> / mass, "value" is minus the optimal value.
        gradient: "detach", as published, holds T fixed; "envelope" says the same (exact for "value"); "implicit" is
            exact for every score.
        tol: L1 error of the marginals at which a problem has converged.
    """

    kind: Literal["transport", "uniform"] = "transport"
    epsilon: float = 0.009
    tau_a: float = 1.0
    tau_b: float = 0.5
    score: Literal["sim", "norm_sim", "value"] = "sim"
    gradient: Literal["detach", "envelope", "implicit"] = "detach"
    tol: float = 1e-5

    def __post_init__(self) -> None:
        if self.kind not in ("transport", "uniform"):
            raise ValueError(f"kind must be 'transport' or 'uniform', got {self.kind!r}.")
        for name in ("epsilon", "tol"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and > 0, got {getattr(self, name)}.")
        for name in ("tau_a", "tau_b"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1] (1 = a hard constraint), got {getattr(self, name)}.")
        if self.score not in ("sim", "norm_sim", "value"):
            raise ValueError(f"score must be 'sim', 'norm_sim' or 'value', got {self.score!r}.")
        if self.kind == "uniform" and self.score == "value":
            raise ValueError("a uniform coupling has no optimal value; take score='sim'.")
        if self.gradient not in ("detach", "envelope", "implicit"):
            raise ValueError(f"gradient must be 'detach', 'envelope' or 'implicit', got {self.gradient!r}.")

    def solver(self) -> Sinkhorn:
        """Return the solver."""
        rho_a, rho_b = (math.inf if tau == 1 else self.epsilon * tau / (1 - tau) for tau in (self.tau_a, self.tau_b))
        return Sinkhorn(epsilon=self.epsilon, rho_a=rho_a, rho_b=rho_b, tol=self.tol, gradient=self.gradient)
