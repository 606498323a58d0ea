"""CoOp, KgCoOp and TCP: one prompt per class beside one learnt context. Settings; the module is contexts.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from medalign_core.objectives.few_shot.schedule import Schedule

if TYPE_CHECKING:
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.objectives.few_shot.contexts import ContextMethod
    from medalign_core.objectives.few_shot.contract import ClassTexts, Support


@dataclass(frozen=True, kw_only=True)
class CoOp:
    """CoOp (Zhou et al., IJCV 2022): logit_c = scale * cos(image, text tower of "[context] name.").

    Attributes:
        context_length: vectors of the context, the same for all classes.
        context_words: what it starts from, as many tokens; None: N(0, 0.02^2).
        chunk: sequences through the text tower at a time.
    """

    schedule: ClassVar[Schedule] = Schedule(epochs=((1, 50), (4, 100), (16, 200)))
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = True

    context_length: int = 16
    context_words: str | None = None
    chunk: int = 512

    def __post_init__(self) -> None:
        _check(context_length=self.context_length, chunk=self.chunk)

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> ContextMethod:
        """Return the module; the support is not looked at. ValueError for a prompt that is too long."""
        from medalign_core.objectives.few_shot.contexts import ContextMethod

        words = self.context_words
        return ContextMethod(model, texts, length=self.context_length, words=words, chunk=self.chunk, seed=seed)


@dataclass(frozen=True, kw_only=True)
class KgCoOp:
    """KgCoOp (Yao et al., CVPR 2023): CoOp held near the hand-written prompt by 1 - cos of their text features.

    Attributes:
        context_length: as in `CoOp`; None: as many as the words have tokens, 4 as published unless a tokenizer splits
            "photo".
        context_words: as in `CoOp`.
        anchor_lambda: weight of the anchor, >= 0.
        chunk: sequences through the text tower at a time.
    """

    schedule: ClassVar[Schedule] = Schedule(epochs=((16, 100),), batch=128)
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = True

    context_length: int | None = None
    context_words: str | None = "a photo of a"
    anchor_lambda: float = 8.0
    chunk: int = 512

    def __post_init__(self) -> None:
        _check(context_length=self.context_length, chunk=self.chunk, anchor_lambda=self.anchor_lambda)

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> ContextMethod:
        """Return the module; the support is not looked at. ValueError for a prompt that is too long."""
        from medalign_core.objectives.few_shot.contexts import ContextMethod

        return ContextMethod(
            model,
            texts,
            length=self.context_length,
            words=self.context_words,
            chunk=self.chunk,
            anchor_lambda=self.anchor_lambda,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class TCP:
    """TCP (Yao et al., CVPR 2024): KgCoOp, and the frozen feature of each class's own prompt enters its context.

    Attributes:
        context_length: as in `CoOp`; None: as many as the words have tokens, 4 as published unless a tokenizer splits
            "photo".
        context_words: as in `CoOp`.
        layer: the block at whose input it enters, from 0; None: two thirds of the depth, 8 of 12.
        weight: its share there, in [0, 1]; the published code has 1 whatever its option says.
        anchor_lambda: as in `KgCoOp`.
        chunk: sequences through the text tower at a time.
    """

    schedule: ClassVar[Schedule] = Schedule(optimizer="adam", adam_epsilon=1e-3, epochs=((16, 50),))
    needs_descriptions: ClassVar[bool] = False
    carries_over: ClassVar[bool] = True

    context_length: int | None = None
    context_words: str | None = "a photo of a"
    layer: int | None = None
    weight: float = 1.0
    anchor_lambda: float = 8.0
    chunk: int = 512

    def __post_init__(self) -> None:
        _check(context_length=self.context_length, chunk=self.chunk, anchor_lambda=self.anchor_lambda)
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {self.weight}.")

    def build(
        self, model: DualEncoder, texts: ClassTexts, support: Support | None = None, *, seed: int = 0
    ) -> ContextMethod:
        """Return the module; the support is not looked at. ValueError for a prompt too long or a layer not there."""
        from medalign_core.models.dual.prompts import injection_layer
        from medalign_core.objectives.few_shot.contexts import ContextMethod

        return ContextMethod(
            model,
            texts,
            length=self.context_length,
            words=self.context_words,
            chunk=self.chunk,
            anchor_lambda=self.anchor_lambda,
            injection=(injection_layer(model.text, self.layer), self.weight),
            seed=seed,
        )


def _check(*, context_length: int | None, chunk: int, anchor_lambda: float = 0.0) -> None:
    if (context_length is not None and context_length < 1) or chunk < 1 or anchor_lambda < 0:
        raise ValueError(
            "context_length and chunk must be >= 1 and anchor_lambda >= 0, "
            f"got {context_length}, {chunk} and {anchor_lambda}."
        )
