"""What every few-shot method is given and what it gives: class texts and a support in, class logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.encoder import DualEncoder, VisualTokens
from medalign_core.types import DrawKey


@dataclass(frozen=True, kw_only=True)
class ClassTexts:
    """The words of C classes.

    Attributes:
        names: one per class, as it stands in a sentence: "chest X-ray".
        template: holds one {}: "a photo of a {}.".
        descriptions: K_c >= 1 sentences per class, K_c may differ; empty where a method needs none.
    """

    names: tuple[str, ...]
    template: str
    descriptions: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not self.names:
            raise ValueError(f"class names must be there and differ, got {self.names}.")
        if self.template.count("{}") != 1:
            raise ValueError(f"the template must hold one {{}}, got {self.template!r}.")
        if self.descriptions and len(self.descriptions) != len(self.names):
            raise ValueError(f"{len(self.names)} classes need as many lists, got {len(self.descriptions)}.")
        if any(not sentences for sentences in self.descriptions):
            raise ValueError("every class needs at least one description.")

    @property
    def sentences(self) -> tuple[str, ...]:
        """The template, filled with each name."""
        return tuple(self.template.format(name) for name in self.names)


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """A micro-batch of frozen visual features, A views of each of B images.

    Attributes:
        tokens: (B, A, M, D) not normalised.
        pooled: (B, A, D).
        labels: (B,) class index.
        valid: (B,) bool; a hole counts in no loss.
        key: what random draws are keyed by.
    """

    tokens: Float[Tensor, "B A M D"]
    pooled: Float[Tensor, "B A D"]
    labels: Int[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    key: DrawKey

    def as_samples(self) -> tuple[VisualTokens, Tensor, Tensor]:
        """Return the views as B * A images of their own, with labels and validity."""
        views = self.pooled.shape[1]
        features = VisualTokens(self.tokens.flatten(0, 1), self.pooled.flatten(0, 1))
        return features, self.labels.repeat_interleave(views), self.valid.repeat_interleave(views)

    def as_union(self) -> tuple[VisualTokens, Tensor, Tensor]:
        """Return one image of A * M tokens each, its pooled feature the mean of the views' unit features."""
        pooled = functional.normalize(self.pooled, dim=-1).mean(1)
        return VisualTokens(self.tokens.flatten(1, 2), pooled), self.labels, self.valid


@dataclass(frozen=True, kw_only=True)
class Support:
    """The labelled images that a method may learn from: plain test views.

    Attributes:
        features: of S images.
        labels: (S,) class index.
    """

    features: VisualTokens
    labels: Int[Tensor, " S"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a method is trained, as published.

    Attributes:
        optimizer: "adam", "adamw" or "sgd" (momentum 0.9).
        learning_rate: its peak; the schedule is a cosine per epoch.
        weight_decay: >= 0.
        adam_epsilon: of Adam and AdamW.
        warmup_epochs: at a constant warmup_rate.
        warmup_rate: that rate.
        epochs: pairs (shots, epochs) by rising shots; a number of shots in between takes the next larger entry, one
            above all the last; () is a method that is not trained by gradient steps.
        batch: images per step.
    """

    optimizer: str = "sgd"
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4
    adam_epsilon: float = 1e-8
    warmup_epochs: int = 1
    warmup_rate: float = 1e-5
    epochs: tuple[tuple[int, int], ...] = ()
    batch: int = 32


class FewShotMethod(nn.Module, ABC):
    """A classifier of visual tokens. Its parameters with `requires_grad` are all that training changes."""

    @abstractmethod
    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of images; an image's logits do not depend on its batch."""

    @abstractmethod
    def forward(self, batch: FeatureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a mean over valid images, and what is worth logging."""


class FewShotSettings(Protocol):
    """Settings of a method: a frozen dataclass."""

    schedule: ClassVar[Schedule]
    needs_descriptions: ClassVar[bool]

    def build(self, model: DualEncoder, texts: ClassTexts, support: Support | None) -> FewShotMethod:
        """Return the method; the model stays frozen. ValueError where it needs a support and has none."""
