"""What class descriptions become: frozen sentence features, self-attention over them, vectors for the text tower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.models.dual.encoder import DualEncoder
from medalign_core.ops.cosine import at_least_float32, normalize

ATTENTION_DROPOUT, OUTPUT_DROPOUT = 0.1, 0.5  # VDT's


class Sentences(NamedTuple):
    """Frozen features of up to K sentences per class.

    Attributes:
        units: (C, K, D) of unit length, 0 where a class has fewer.
        valid: (C, K) bool.
    """

    units: Float[Tensor, "C K D"]
    valid: Bool[Tensor, "C K"]

    def mean(self) -> Float[Tensor, "C D"]:
        """Return the unit vector along each class's mean."""
        return normalize(self.units.sum(dim=1))


def encode_sentences(
    model: DualEncoder, descriptions: Sequence[Sequence[str]], *, most: int | None = None
) -> Sentences:
    """Return the features of the first `most` descriptions of each class (None: of all)."""
    taken = [list(sentences[:most]) for sentences in descriptions]
    units = normalize(at_least_float32(model.encode_texts([text for sentences in taken for text in sentences])))
    widest = max(len(sentences) for sentences in taken)
    table, valid = units.new_zeros(len(taken), widest, units.shape[1]), units.new_zeros(len(taken), widest).bool()
    for row, part in enumerate(units.split([len(sentences) for sentences in taken])):
        table[row, : len(part)], valid[row, : len(part)] = part, True
    return Sentences(table, valid)


class SentenceAttention(nn.Module):
    """One head of self-attention over a class's sentences, mixed with its input: x -> LayerNorm(2 (r y + (1 - r) x)).

    The adapter of VDT (CLIP-A-self): queries, keys and values of a quarter of the width, without biases.
    """

    def __init__(self, width: int, *, share: float, draws: torch.Generator) -> None:
        """Draw new weights.

        Args:
            width: D.
            share: r in [0, 1].
            draws: what the weights are drawn by.
        """
        super().__init__()
        inner = max(1, width // 4)
        self.share = share
        self.query, self.key, self.value = (_new_linear(width, inner, draws, bias=False) for _ in range(3))
        self.output = _new_linear(inner, width, draws, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, sentences: Sentences, *, draws: torch.Generator | None = None) -> Float[Tensor, "C K D"]:
        """Return the sentences' new vectors, not normalised, 0 where there is none; no draws are no dropout."""
        x, valid = sentences
        table = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(self.query.out_features)  # (C, K, K)
        attention = torch.where(valid[:, None], table, -torch.inf).softmax(dim=2)
        attention = _drop(attention, ATTENTION_DROPOUT, draws)
        y = _drop(self.output(attention @ self.value(x)), OUTPUT_DROPOUT, draws)
        mixed = self.norm(2 * (self.share * y + (1 - self.share) * x))
        return torch.where(valid[:, :, None], mixed, 0.0)


class ContextGenerator(nn.Module):
    """A class's text feature to n context vectors through a bottleneck: TCP's textual knowledge embedding."""

    def __init__(self, width: int, *, length: int, context_width: int, draws: torch.Generator) -> None:
        super().__init__()
        self.length = length
        self.down = _new_linear(width, max(1, width // 4), draws)
        self.up = _new_linear(self.down.out_features, length * context_width, draws)

    def forward(self, features: Float[Tensor, "C D"]) -> Float[Tensor, "C n W"]:
        """Return the vectors of each class."""
        hidden = self.down(features)
        hidden = hidden * torch.sigmoid(1.702 * hidden)  # CLIP's QuickGELU
        return self.up(hidden).unflatten(1, (self.length, -1))


def _new_linear(width: int, out: int, draws: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Return torch's default initialisation, drawn by `draws`."""
    layer, bound = nn.utils.skip_init(nn.Linear, width, out, bias=bias), 1 / math.sqrt(width)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=draws)
    return layer


def _drop(x: Tensor, share: float, draws: torch.Generator | None) -> Tensor:
    if draws is None or share == 0:
        return x
    kept = torch.rand(x.shape, generator=draws, device=x.device) >= share
    return x * kept / (1 - share)
