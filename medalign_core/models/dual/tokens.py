"""Texts to prompt tokens: start token, room for a context, the words, end token, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from medalign_core.models.dual.encoder import PromptTokens


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """A `Tokenize` around whatever splits texts into token ids.

    Attributes:
        split: texts to the ids of their words, without special tokens and without truncation.
        start: id of the start token.
        end: id of the end token.
        padding: id that fills rows up; no feature depends on it.
        placeholder: id that keeps the room of a context; its embeddings are replaced before they are encoded.
        context_length: the most tokens of a prompt, start and end included.
    """

    split: Callable[[list[str]], list[list[int]]]
    start: int
    end: int
    padding: int
    placeholder: int
    context_length: int

    def __post_init__(self) -> None:
        if self.context_length < 3:
            raise ValueError(f"context_length must be >= 3, got {self.context_length}.")

    def __call__(self, texts: Sequence[str], context: int = 0) -> PromptTokens:
        """Return the prompts, padded to the longest of them.

        Args:
            texts: at least one.
            context: vectors to leave room for after the start token, >= 0.

        Raises:
            ValueError: no text, or one that is too long: prompts are never cut.
        """
        if not texts:
            raise ValueError("there must be at least one text.")
        if context < 0:
            raise ValueError(f"context must be >= 0, got {context}.")
        rows = []
        for text, words in zip(texts, self.split(list(texts)), strict=True):
            rows.append([self.start, *[self.placeholder] * context, *words, self.end])
            if len(rows[-1]) > self.context_length:
                with_context = f", {context} of them context" if context else ""
                raise ValueError(
                    f"{text!r} is {len(rows[-1])} tokens long (start and end included{with_context}); "
                    f"the text tower takes {self.context_length}. Shorten it."
                )
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.padding] * (length - len(row)) for row in rows])
        attended = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        return PromptTokens(ids, attended)
