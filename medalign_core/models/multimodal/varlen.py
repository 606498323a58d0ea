"""Attention over packed texts one by one: no mask, no padding, and no pair of tokens of two texts is computed.

PyTorch's own attention runs on each text; what a varlen kernel does on a GPU, for the CPU. Importing this file
registers it with transformers as the implementation "medalign_varlen".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "medalign_varlen"


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend causally within each text of a packed row; as "sdpa" does where nothing is packed.

    Args:
        module: the attention layer.
        query: (R, heads, P, C); R is 1 where texts are packed.
        key: (R, key heads, P, C).
        value: (R, key heads, P, C).
        attention_mask: None where texts are packed.
        options: what transformers hands on; `cu_seq_lens_q` holds the borders of the packed texts, 0 and P included.
    """
    borders = options.get("cu_seq_lens_q")
    if borders is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = borders.diff().tolist()
    parts = zip(*(whole.split(lengths, dim=2) for whole in (query, key, value)), strict=True)
    attended = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in parts]
    return torch.cat(attended, dim=1), None


def varlen_mask(*, batch_size: int, q_length: int, kv_length: int, **options: Any) -> Tensor | None:
    """Return no mask for one row without padding, whose texts `varlen_attention` tells apart; else that of "sdpa"."""
    window = options.get("local_size")
    reaches_all = window is None or window >= q_length
    if batch_size == 1 and options.get("attention_mask") is None and q_length == kv_length and reaches_all:
        return None
    mask: Tensor | None = sdpa_mask(batch_size=batch_size, q_length=q_length, kv_length=kv_length, **options)
    return mask


AttentionInterface.register(NAME, varlen_attention)
AttentionMaskInterface.register(NAME, varlen_mask)
