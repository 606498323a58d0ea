"""Settings of Dude: what the paper leaves open are switches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support
    from medalign_core.objectives.few_shot.dude.module import DudeModule

CHOICES = {
    "class_route": ("tcp_inject", "attn_pool", "atoms"),
    "fusion": ("union", "sum"),
    "views": ("samples", "token_union"),
    "tokens": ("local", "global"),
    "add_global": ("none", "logit_sum"),
}


@dataclass(frozen=True, kw_only=True)
class Dude:
    """Dude (Nguyen et al., ACML 2024): few-shot prompts with two contexts, matched to visual tokens by unbalanced OT.

    A reference reconstruction: the paper's abstract and its authors' working code fix the transport, the frozen parts
    and the training; how both contexts meet, and what the views of an image are, they leave open: these are switches.

    logit_c = scale * score of the coupling of the image's tokens with the prompts of class c.

    Attributes:
        shared_n: N, contexts shared by all classes; 0 leaves the class-specific prompts alone.
        shared_len: vectors of each.
        shared_words: what the first starts from, e.g. "a photo of a" (shared_len tokens), the others from it plus
            N(0, 0.02^2); None draws all of them from N(0, 0.02^2).
        class_k: K, descriptions used of each class (of those that have as many); 0 leaves the shared prompts alone.
        class_route: how descriptions enter. "tcp_inject": their mean feature makes vectors, through a bottleneck that
            learns, which are mixed into the context positions within the text tower. "attn_pool": self-attention over
            them, which learns, makes one more prompt per class. "atoms": each is a prompt, as it is.
        tcp_layer: the block at whose input vectors are mixed in, from 0; None: two thirds of the depth, 8 of 12.
        tcp_weight: their share in [0, 1]; 1 replaces the shared context from that block on.
        attn_share: r of "attn_pool", see SentenceAttention.
        fusion: "union" couples the tokens with shared and class-specific prompts at once (with "tcp_inject" each
            prompt holds both contexts); "sum" adds the score of the shared and class_weight times that of the others.
        class_weight: w of the sum, >= 0.
        tokens: "local" visual tokens, or "global": the pooled feature as the only token.
        add_global: "logit_sum" adds the logits of the pooled feature against the mean prompt.
        views: of an image in training: "samples", images of their own, or "token_union", one image of all their tokens.
        coupling: the transport.
        anchor_lambda: weight of 1 - mean cos(prompt, frozen template), >= 0; 8 in TCP, 0 in the authors' OT branch.
        chunk: sequences through the text tower at a time.
    """

    schedule: ClassVar[Schedule] = Schedule(
        optimizer="adam", learning_rate=2e-3, weight_decay=5e-4, adam_epsilon=1e-3, epochs=((16, 50),), batch=32
    )
    carries_over: ClassVar[bool] = True

    shared_n: int = 4
    shared_len: int = 4
    shared_words: str | None = None
    class_k: int = 4
    class_route: Literal["tcp_inject", "attn_pool", "atoms"] = "tcp_inject"
    tcp_layer: int | None = None
    tcp_weight: float = 1.0
    attn_share: float = 0.2
    fusion: Literal["union", "sum"] = "union"
    class_weight: float = 1.0
    tokens: Literal["local", "global"] = "local"
    add_global: Literal["none", "logit_sum"] = "none"
    views: Literal["samples", "token_union"] = "samples"
    coupling: Coupling = field(default_factory=Coupling)
    anchor_lambda: float = 0.0
    chunk: int = 512

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.shared_n < 0 or self.class_k < 0 or self.shared_n + self.class_k == 0:
            raise ValueError(f"shared_n and class_k must be >= 0, not both 0, got {self.shared_n} and {self.class_k}.")
        if self.shared_len < 1 or self.chunk < 1:
            raise ValueError(f"shared_len and chunk must be >= 1, got {self.shared_len} and {self.chunk}.")
        if self.shared_n == 0 and (self.injects or self.anchor_lambda > 0):
            raise ValueError("tcp_inject and anchor_lambda need shared contexts: set shared_n >= 1.")
        if not (0 <= self.tcp_weight <= 1 and 0 <= self.attn_share <= 1):
            raise ValueError(
                f"tcp_weight and attn_share must be in [0, 1], got {self.tcp_weight} and {self.attn_share}."
            )
        if self.class_weight < 0 or self.anchor_lambda < 0:
            raise ValueError(
                f"class_weight and anchor_lambda must be >= 0, got {self.class_weight} and {self.anchor_lambda}."
            )

    @property
    def injects(self) -> bool:
        """Whether descriptions enter inside the text tower."""
        return self.class_k > 0 and self.class_route == "tcp_inject"

    @property
    def needs_descriptions(self) -> bool:
        """Whether the class texts must hold descriptions."""
        return self.class_k > 0

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> DudeModule:
        """Return the module; the support is not looked at.

        Raises:
            ValueError: descriptions are missing, a prompt is too long, or tcp_layer is not one of the tower.
        """
        from medalign_core.objectives.few_shot.dude.module import DudeModule

        return DudeModule(self, model, texts, seed=seed)
