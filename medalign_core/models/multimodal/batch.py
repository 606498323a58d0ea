"""What a multimodal model reads and returns: a micro-batch of tokenised conversations, and losses with graph nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from medalign_core.types import DrawKey, on_device

IGNORED = -100  # the label of a token that is no target, as transformers has it


@dataclass(frozen=True, kw_only=True)
class ChatBatch:
    """One micro-batch of B conversations about at most one image each, and their texts apart for the graphs.

    Tokens are padded on the right. The image stands in a conversation as M consecutive image tokens, M being the
    model's `image_tokens`; a row without an image has none. Answer and extended texts are the assistant's turns alone,
    without an image; they are None where no graph is built from them.

    Attributes:
        images: (B, 3, H, W) uint8, RGB in 0..255; zeros for a row without an image.
        has_image: (B,) bool.
        conversation_tokens: (B, L) token ids of the whole conversation.
        conversation_labels: (B, L) the same ids where the assistant speaks, IGNORED elsewhere. Not shifted: the token
            at t is predicted from those before t.
        conversation_attended: (B, L) bool, False for padding.
        answer_tokens: (B, La) token ids of the answers alone.
        answer_attended: (B, La) bool, False for padding.
        extended_tokens: (B, Le) token ids of the extended answers alone.
        extended_attended: (B, Le) bool, False for padding.
        image_ids: (B,) int64, equal where two rows show the same image; -1 without an image.
        answer_ids: (B,) int64, equal where two rows have the same normalised answer; -1 where it is not known.
        valid: (B,) bool, False for a hole: a row that could not be read. A hole never counts in a loss.
        ids: (B,) int64, the row's number within its corpus split; -1 for a hole that fills a padding micro-batch.
        key: what random draws of this micro-batch are keyed by.
        weight: the share of this micro-batch in its step: 1, or 0 for a padding micro-batch.
    """

    images: UInt8[Tensor, "B 3 H W"]
    has_image: Bool[Tensor, " B"]
    conversation_tokens: Int[Tensor, "B L"]
    conversation_labels: Int[Tensor, "B L"]
    conversation_attended: Bool[Tensor, "B L"]
    answer_tokens: Int[Tensor, "B La"] | None = None
    answer_attended: Bool[Tensor, "B La"] | None = None
    extended_tokens: Int[Tensor, "B Le"] | None = None
    extended_attended: Bool[Tensor, "B Le"] | None = None
    image_ids: Int[Tensor, " B"]
    answer_ids: Int[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    ids: Int[Tensor, " B"]
    key: DrawKey
    weight: float = 1.0

    def to(self, device: torch.device | str) -> ChatBatch:
        """Return the same batch with every tensor on `device`."""
        return on_device(self, device)


class ChatOutput(NamedTuple):
    """What a multimodal model returns for a ChatBatch.

    Attributes:
        ar_loss_sum: the sum over target tokens of valid rows of -log p(token | tokens before it), float32 at least.
        ar_tokens: how many targets that sum has, an integer.
        image_nodes: (B, D) mean of the projected image tokens; zeros for a row without an image.
        answer_nodes: (B, D) node of the answer; None where the batch has no answers and none are pooled in context.
        extended_nodes: (B, D) node of the extended answer; None without extended texts.
    """

    ar_loss_sum: Float[Tensor, ""]
    ar_tokens: Int[Tensor, ""]
    image_nodes: Float[Tensor, "B D"]
    answer_nodes: Float[Tensor, "B D"] | None
    extended_nodes: Float[Tensor, "B D"] | None
