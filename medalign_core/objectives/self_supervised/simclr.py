"""SimCLR: each view finds the other view of its image among all views of the micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medalign_core.objectives.self_supervised.contract import SelfSupervised, check_positive

if TYPE_CHECKING:
    from medalign_core.models.encoders import ImageEncoder
    from medalign_core.objectives.self_supervised.pairwise import PairwiseModule


@dataclass(frozen=True, kw_only=True)
class SimCLR(SelfSupervised):
    """SimCLR (Chen et al. 2020): NT-Xent on an MLP's output. `info_nce` is the same loss without batch norm.

    Attributes:
        temperature: tau, divides the cosines; > 0.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")

    def build(self, model: ImageEncoder) -> PairwiseModule:
        """Return the module that owns the encoder and the projector; new weights by torch's global generator."""
        from medalign_core.objectives.info_nce.module import info_nce
        from medalign_core.objectives.self_supervised.pairwise import PairwiseModule

        return PairwiseModule(self, model, partial(info_nce, temperature=self.temperature))
