"""From a batch to the embeddings of its views: two large ones, and small ones where the recipe draws them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medalign_core.metrics.collapse import effective_rank, embedding_std
from medalign_core.models.encoders import ImageEncoder
from medalign_core.objectives.holes import stand_ins
from medalign_core.objectives.info_nce.module import retrieval_accuracy
from medalign_core.ops.cosine import at_least_float32
from medalign_core.types import ImageBatch, ImageFeatures


class ViewFeatures(NamedTuple):
    """What the encoder gives of all views, view by view; a hole's rows are those of its stand-in.

    Attributes:
        large: of the 2 B large views.
        small: of the W B small ones, None without.
    """

    large: ImageFeatures
    small: ImageFeatures | None


class Embeddings(NamedTuple):
    """Projected views, view first, at least float32.

    Attributes:
        large: (2, B, F).
        small: (W, B, F), W = 0 without.
    """

    large: Float[Tensor, "2 B F"]
    small: Float[Tensor, "W B F"]


def encode(encoder: ImageEncoder, batch: ImageBatch) -> ViewFeatures:
    """Return the features of all views: the small ones first, so that batch norms end with the large ones' statistics.

    Raises:
        ValueError: not two large views.
    """
    if batch.images.shape[1] != 2:
        raise ValueError(f"the objective compares 2 views, got {batch.images.shape[1]}.")
    rows = stand_ins(batch.valid)
    small = None if batch.small_images is None else encoder(_view_by_view(batch.small_images[rows]))
    return ViewFeatures(large=encoder(_view_by_view(batch.images[rows])), small=small)


def embed(head: nn.Module, features: ViewFeatures, *, rows: int) -> Embeddings:
    """Return the head's output for the pooled features of all views, small ones first; B = rows."""
    small = None if features.small is None else project(head, features.small.pooled)
    large = project(head, features.large.pooled).unflatten(0, (2, rows))
    return Embeddings(large=large, small=large[:0] if small is None else small.unflatten(0, (-1, rows)))


def project(head: nn.Module, pooled: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
    """Return head(pooled) in float32 at least, computed in the type of the head's weights."""
    projected: Tensor = head(pooled.to(next(head.parameters()).dtype))
    return at_least_float32(projected)


def view_pairs(embeddings: Embeddings) -> list[tuple[Tensor, Tensor]]:
    """Return the pairs of views that are compared: the two large ones, then each large one with each small one."""
    pairs = [(embeddings.large[0], embeddings.large[1])]
    return pairs + [(large, small) for large in embeddings.large for small in embeddings.small]


def view_stats(large: Float[Tensor, "2 B F"], valid: Bool[Tensor, " B"]) -> dict[str, Float[Tensor, ""]]:
    """Return the figures that every objective reports of its embeddings, detached.

    matching_accuracy: share of images whose view s is nearest to its own view t; embedding_std: 0 is complete collapse;
    effective_rank: 1 is collapse onto a line.
    """
    view_s, view_t = large.detach()
    return {
        "matching_accuracy": retrieval_accuracy(view_s, view_t, valid),
        "embedding_std": embedding_std(view_s, valid),
        "effective_rank": effective_rank(view_s, valid),
    }


def mean_over_valid(terms: Float[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return the mean of the valid rows' terms; 0, still connected, without any."""
    return torch.where(valid, terms, 0.0).sum() / valid.sum().clamp(min=1)


def _view_by_view(images: Tensor) -> Tensor:
    return images.transpose(0, 1).flatten(0, 1)  # (V B, 3, H, W)
