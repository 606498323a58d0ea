"""What every few-shot method is given and what it gives: class texts and a support in, class logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.encoder import DualEncoder, VisualTokens
from medalign_core.objectives.few_shot.schedule import Schedule
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


class FewShotMethod(nn.Module, ABC):
    """A classifier of visual tokens. Its parameters with `requires_grad` are all that training changes.

    A method may hold the text tower, frozen. Between `eval()` and the next `train()` it may keep what it made of its
    texts.
    """

    def learnt(self) -> dict[str, Tensor]:
        """Return copies of the parameters that training changes, by name: all that a trained method is saved as."""
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_learnt(self, values: Mapping[str, Tensor]) -> None:
        """Take over what another method of the same settings learnt.

        Contexts, bottlenecks and attention do not depend on the classes: a method built for other classes takes them.

        Raises:
            ValueError: names or shapes differ.
        """
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        expected, given = ({name: tuple(v.shape) for name, v in held.items()} for held in (own, values))
        if expected != given:
            raise ValueError(f"the method learns {expected}, got {given}.")
        for name, parameter in own.items():
            parameter.copy_(values[name])

    @abstractmethod
    def logits(self, features: VisualTokens) -> Float[Tensor, "B C"]:
        """Return the class logits of images; an image's logits do not depend on its batch."""

    @abstractmethod
    def forward(self, batch: FeatureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a mean over valid images, and what is worth logging."""


class FewShotSettings(Protocol):
    """Settings of a method: a frozen dataclass, in a module that imports no torch.

    Attributes:
        schedule: of its training.
        carries_over: whether what is learnt of some classes classifies others, see `FewShotMethod.load_learnt`.
    """

    schedule: ClassVar[Schedule]
    carries_over: ClassVar[bool]

    @property
    def needs_descriptions(self) -> bool:
        """Whether the class texts must hold descriptions."""

    def build(self, model: DualEncoder, texts: ClassTexts, support: Support | None, *, seed: int = 0) -> FewShotMethod:
        """Return the method on the model's device, its new parameters drawn by the seed alone.

        The text tower is frozen: its parameters ask for no gradient from here on.

        Raises:
            ValueError: descriptions or a support are needed and missing, or a prompt is too long.
        """
