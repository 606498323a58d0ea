"""PLOT: several shared contexts and balanced transport. Settings; the module is Dude's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.dude.settings import Dude
from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support
    from medalign_core.objectives.few_shot.dude.module import DudeModule


@dataclass(frozen=True, kw_only=True)
class PLOT:
    """PLOT (Chen et al., ICLR 2023): N contexts per class, matched to visual tokens by balanced optimal transport.

    The published code ends Sinkhorn after 2 or 3 sweeps, where its plan is still near uniform; here it converges.

    Attributes:
        context_count: N.
        context_length: vectors of each.
        epsilon: of the transport, in cosines.
        add_global: "logit_sum" adds the logits of the pooled feature: published for ImageNet alone.
        chunk: sequences through the text tower at a time.
    """

    schedule: ClassVar[Schedule] = Schedule(epochs=((1, 50), (4, 100), (16, 200)), batch=128)
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = True

    context_count: int = 4
    context_length: int = 16
    epsilon: float = 0.1
    add_global: Literal["none", "logit_sum"] = "none"
    chunk: int = 512

    def __post_init__(self) -> None:
        if self.context_count < 1:
            raise ValueError(f"context_count must be >= 1, got {self.context_count}.")
        self.as_dude()

    def as_dude(self) -> Dude:
        """Return the same method among Dude's switches."""
        return Dude(
            shared_n=self.context_count,
            shared_len=self.context_length,
            class_k=0,
            add_global=self.add_global,
            coupling=Coupling(epsilon=self.epsilon, tau_a=1.0, tau_b=1.0),
            chunk=self.chunk,
        )

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> DudeModule:
        """Return the module; the support is not looked at. ValueError for a prompt that is too long."""
        return self.as_dude().build(model, texts, support, seed=seed)
