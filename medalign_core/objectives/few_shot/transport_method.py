"""Methods that couple visual tokens with the prompts of each class: their logits, and what the couplings look like."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medalign_core.metrics.plan_health import plan_health
from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.matching import Matching, match, score
from medalign_core.objectives.few_shot.text_method import TextMethod
from medalign_core.ops.cosine import at_least_float32, normalize


class Prompts(NamedTuple):
    """A measure of prompts for each class, its atoms of equal weight.

    Attributes:
        name: "shared", "class" or "union".
        units: (C, N, D), of unit length.
        valid: (C, N) bool, which exist; None: all.
        weight: of its score in the sum over measures.
    """

    name: str
    units: Tensor
    valid: Tensor | None = None
    weight: float = 1.0


class TransportMethod(TextMethod[list[Prompts]]):
    """logit_c = scale * sum over measures of weight * score(coupling of the tokens with the prompts of class c)."""

    def __init__(
        self,
        coupling: Coupling,
        *,
        scale: float,
        tokens: Literal["local", "global"] = "local",
        adds_global: bool = False,
    ) -> None:
        """Hold how tokens and prompts are matched.

        Args:
            coupling: the transport.
            scale: of logits.
            tokens: "global" takes the pooled feature as the only token.
            adds_global: add the logits of the pooled feature against the mean of all prompts.
        """
        super().__init__()
        self.coupling, self.scale, self.tokens, self.adds_global = coupling, scale, tokens, adds_global

    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of images."""
        return self.logits_of(features, self.prompts_now())

    def logits_of(self, features: VisualTokens, sets: list[Prompts]) -> Float[Tensor, "B C"]:
        """Return the class logits by the given prompts."""
        tokens = self._tokens(features)
        scores = [prompts.weight * score(self.coupling, tokens, prompts.units, prompts.valid) for prompts in sets]
        total = torch.stack(scores).sum(dim=0)
        if self.adds_global:
            total = total + units(features.pooled) @ _mean_direction(sets).T
        return self.scale * total

    @torch.no_grad()
    def matchings(self, features: VisualTokens) -> dict[str, Matching]:
        """Return the couplings of a few images with every class, one for each measure, by its name."""
        tokens = self._tokens(features)
        return {p.name: match(self.coupling, tokens, p.units, p.valid) for p in self.prompts_now()}

    def explain(self, features: VisualTokens) -> Float[Tensor, "B C M N"]:
        """Return the plans of a few images; those of several measures stand side by side, shared prompts first."""
        return torch.cat([found.plan for found in self.matchings(features).values()], dim=3)

    @torch.no_grad()
    def health(self, features: VisualTokens) -> dict[str, Float[Tensor, ""]]:
        """Return whether the plans of a few images do anything: `plan_health`, of each measure.

        Names are those of `plan_health`, with the measure before them, "class/plan_entropy", where there are several.
        """
        sets = {p.name: p for p in self.prompts_now()}
        out: dict[str, Tensor] = {}
        for name, found in self.matchings(features).items():
            valid = sets[name].valid
            stats = plan_health(
                found.plan,
                found.similarity,
                None if valid is None else valid.expand(len(found.plan), -1, -1),
                iterations=found.iterations,
                converged=found.converged,
            )
            out |= {f"{name}/{key}" if len(sets) > 1 else key: value for key, value in stats.items()}
        return out

    def _tokens(self, features: VisualTokens) -> Tensor:
        return units(features.tokens if self.tokens == "local" else features.pooled[:, None])


def units(features: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """Return the features at unit length, in float32 at least."""
    return normalize(at_least_float32(features))


def _mean_direction(sets: list[Prompts]) -> Tensor:
    every = [p.units if p.valid is None else p.units * p.valid[:, :, None] for p in sets]
    return normalize(torch.cat(every, dim=1).sum(dim=1))  # (C, D)
