"""Packing: several texts of a sample in one row, which a causal language model reads in one pass without mixing them.

transformers tells packed texts apart by position ids that do not go up by one, provided that there is no attention mask
and no cache. For the implementations "sdpa", "eager" and "flex_attention" it then builds a mask per row. Its
"flash_attention_*" look at positions only in a batch of one row, and in a batch of several would silently let texts
see each other: for them all samples go into one row, and so they do for "medalign_varlen" (see varlen.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

PER_ROW = ("sdpa", "eager", "flex_attention")
ONE_ROW = ("medalign_varlen", "flash_attention_2", "flash_attention_3")


class Packed(NamedTuple):
    """Texts in rows.

    Attributes:
        tokens: (R, P) token ids: for each sample its first text, its second, ..., then padding.
        positions: (R, P) position ids, from 0 in each text; padding counts as a text of its own.
        sample: (R, P) the sample a token belongs to.
        text: (R, P) the number of its text, -1 for padding.
    """

    tokens: Int[Tensor, "R P"]
    positions: Int[Tensor, "R P"]
    sample: Int[Tensor, "R P"]
    text: Int[Tensor, "R P"]


def pack(texts: Sequence[tuple[Tensor, Tensor]], *, one_row: bool = False) -> Packed:
    """Return the texts of each sample one after the other, without the padding between them.

    Args:
        texts: (tokens (B, L_s), attended (B, L_s) bool) of each text s, padded on the right.
        one_row: all samples in one row without any padding, instead of a row per sample padded to the longest.
            Either way there is a token, be it padding: ranks with nothing but holes make the same calls.
    """
    tokens = torch.cat([t for t, _ in texts], dim=1)
    attended = torch.cat([a for _, a in texts], dim=1)
    text = torch.cat([torch.full_like(t, s) for s, (t, _) in enumerate(texts)], dim=1)
    positions = torch.cat([a.long().cumsum(dim=1) - 1 for _, a in texts], dim=1)
    sample = torch.arange(tokens.shape[0], device=tokens.device)[:, None].expand_as(tokens)
    if one_row and attended.any():
        flat = [part[attended][None] for part in (tokens, positions, sample, text)]
        return Packed(*flat)
    if one_row:
        tokens, positions, sample, text, attended = (
            part[:1, :1] for part in (tokens, positions, sample, text, attended)
        )
    order = torch.sort(~attended, dim=1, stable=True).indices[:, : max(int(attended.sum(dim=1).max()), 1)]
    tokens, positions, text, kept, sample = (
        part.gather(1, order) for part in (tokens, positions, text, attended, sample.contiguous())
    )
    padding = torch.arange(order.shape[1], device=order.device) - kept.sum(dim=1, keepdim=True)
    return Packed(tokens, torch.where(kept, positions, padding), sample, text.masked_fill(~kept, -1))


def read(decoder: nn.Module, packed: Packed, embeddings: Float[Tensor, "R P D"]) -> Float[Tensor, "R P D"]:
    """Return a decoder's last hidden states of packed texts, each text read by itself.

    Args:
        decoder: a transformers decoder without its head.
        packed: the texts.
        embeddings: the input embeddings of their tokens.
    """
    borders: dict[str, Any] = {}
    if len(packed.tokens) == 1:  # a varlen kernel need not look for them in every layer
        starts = (packed.positions[0] == 0).nonzero().flatten()
        ends = torch.cat([starts, starts.new_tensor([packed.tokens.shape[1]])]).int()
        longest = int(ends.diff().max())
        borders = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    states: Tensor = decoder(
        inputs_embeds=embeddings,
        attention_mask=None,
        position_ids=packed.positions,
        use_cache=False,
        **borders,
    ).last_hidden_state
    return states


def unpack(values: Tensor, packed: Packed, *, text: int, attended: Bool[Tensor, "B L"]) -> Tensor:
    """Return a (B, L, D) tensor of the values of one text, where it stood before it was packed; 0 for padding.

    Args:
        values: (R, P, D), one per packed token.
        packed: the packing.
        text: the number of the text.
        attended: its mask as given to `pack`.
    """
    # both orders are sample by sample, token by token
    out = values.new_zeros(*attended.shape, values.shape[-1])
    return out.masked_scatter(attended[:, :, None], values[packed.text == text])


def layout(attention: str) -> bool:
    """Return whether texts must go into one row under an attention implementation.

    Raises:
        ValueError: transformers is not known to keep packed texts apart under it.
    """
    if attention in ONE_ROW:
        return True
    if attention not in PER_ROW:
        known = ", ".join((*PER_ROW, *ONE_ROW))
        raise ValueError(f"packed texts are kept apart under {known}; got {attention!r}: take text_nodes 'separate'.")
    return False


@torch.no_grad()
def check_isolation(decoder: Any, *, one_row: bool = False, tolerance: float = 1e-3) -> None:
    """Check by a pass over a few tokens that a decoder keeps packed texts apart.

    A state-space or linear-attention layer, say, carries state over the border whatever the positions are.

    Args:
        decoder: a transformers decoder without its head.
        one_row: as in `pack`.
        tolerance: how far hidden states may differ, relative to their largest; at least four roundings of their type.

    Raises:
        ValueError: it does not.
    """
    device = next(decoder.parameters()).device
    tokens = torch.arange(3, 9, device=device).expand(2, -1)
    attended = torch.ones_like(tokens, dtype=torch.bool)
    packed = pack([(tokens, attended), (tokens, attended)], one_row=one_row)
    was_training = decoder.training
    decoder.eval()
    states = read(decoder, packed, decoder.get_input_embeddings()(packed.tokens))
    decoder.train(was_training)
    first, second = (unpack(states, packed, text=s, attended=attended).float() for s in (0, 1))
    allowed = max(tolerance, 4 * torch.finfo(states.dtype).eps)
    if (first - second).abs().max() > allowed * first.abs().max():
        raise ValueError(
            f"{type(decoder).__name__} does not keep texts apart that are packed in a row; take another attention, or "
            "text_nodes 'separate'."
        )
