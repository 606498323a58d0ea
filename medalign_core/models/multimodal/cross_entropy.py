"""Cross-entropy over a big vocabulary in chunks: the logits of more than one chunk are never held."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medalign_core.ops.cosine import at_least_float32


def chunked_cross_entropy(
    head: Callable[[Tensor], Tensor],
    states: Float[Tensor, "N D"],
    targets: Int[Tensor, " N"],
    *,
    chunks: int,
) -> Float[Tensor, ""]:
    """Return the sum over N of -log softmax(head(state))[target], in float32 at least.

    The logits of a chunk, (N / chunks, V), are dropped after its loss and computed again for the gradient: twice the
    head's forward cost for 1 / chunks of the memory. `head` is called `chunks` times whatever N is, 0 included, so that
    ranks with unlike numbers of targets make the same calls: a head sharded over ranks is gathered at each.

    Args:
        head: from states to logits.
        states: what the targets are predicted from.
        targets: in [0, V).
        chunks: >= 1; 1 keeps the logits and computes them once.
    """
    loss_of = partial(_sum, head)
    if chunks == 1:
        return loss_of(states, targets)
    parts = zip(torch.tensor_split(states, chunks), torch.tensor_split(targets, chunks), strict=True)
    losses = [checkpoint(loss_of, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(losses).sum()


def _sum(head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(at_least_float32(head(states)), targets, reduction="sum")
