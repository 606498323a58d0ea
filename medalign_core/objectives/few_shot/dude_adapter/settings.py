"""Settings of Dude's adapter setting: nothing runs through the text tower in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support
    from medalign_core.objectives.few_shot.dude_adapter.module import DudeAdapterModule


@dataclass(frozen=True, kw_only=True)
class DudeAdapter:
    """Self-attention over a class's frozen sentence features, whose outcome is matched with the image.

    The paper names an adapter setting and its abstract says no more; this is the nearest published adapter of LLM
    sentences (VDT's CLIP-A-self) under Dude's transport. The schedule is CLIP-Adapter's optimizer at CoOp's lengths.

    Attributes:
        class_k: K, descriptions used of each class; None: all.
        match: "transport" couples the K adapted sentences with the visual tokens; "pooled" compares their mean with
            the pooled feature, which is VDT's own classifier.
        attn_share: r of the attention's outcome, 1 - r of its input; VDT's 0.2.
        views: as in `Dude`.
        coupling: the transport.
    """

    schedule: ClassVar[Schedule] = Schedule(epochs=((1, 50), (4, 100), (16, 200)))
    needs_descriptions: ClassVar[bool] = True
    carries_over: ClassVar[bool] = True

    class_k: int | None = None
    match: Literal["transport", "pooled"] = "transport"
    attn_share: float = 0.2
    views: Literal["samples", "token_union"] = "samples"
    coupling: Coupling = field(default_factory=Coupling)

    def __post_init__(self) -> None:
        if self.class_k is not None and self.class_k < 1:
            raise ValueError(f"class_k must be >= 1, or None for all descriptions, got {self.class_k}.")
        if self.match not in ("transport", "pooled"):
            raise ValueError(f"match must be 'transport' or 'pooled', got {self.match!r}.")
        if not 0 <= self.attn_share <= 1:
            raise ValueError(f"attn_share must be in [0, 1], got {self.attn_share}.")
        if self.views not in ("samples", "token_union"):
            raise ValueError(f"views must be 'samples' or 'token_union', got {self.views!r}.")

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> DudeAdapterModule:
        """Return the module; the support is not looked at.

        Raises:
            ValueError: descriptions are missing or too long.
        """
        from medalign_core.objectives.few_shot.dude_adapter.module import DudeAdapterModule

        return DudeAdapterModule(self, model, texts, seed=seed)
