"""What few-shot methods minimise: cross-entropy over valid images, and the anchor to the frozen text features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.ops.cosine import normalize

if TYPE_CHECKING:
    from medalign_core.objectives.few_shot.contract import FeatureBatch


def read_views(batch: FeatureBatch, views: Literal["samples", "token_union"]) -> tuple[VisualTokens, Tensor, Tensor]:
    """Return features, labels and validity with the views as images of their own, or merged into one set of tokens.

    What stands in a hole becomes 0, whatever it was, so that no solver meets a NaN that is not an image's.
    """
    features, labels, valid = batch.as_samples() if views == "samples" else batch.as_union()
    tokens = torch.where(valid[:, None, None], features.tokens, 0.0)
    pooled = torch.where(valid[:, None], features.pooled, 0.0)
    return VisualTokens(tokens, pooled), labels, valid


def classify(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], valid: Bool[Tensor, " B"]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the mean cross-entropy over valid images and its stats; 0, still connected, where none is valid.

    Stats, detached scalars: cross_entropy and accuracy, the share of valid images whose own class has the top logit.
    """
    count = valid.sum().clamp(min=1)
    labels = torch.where(valid, labels, 0)
    terms = functional.cross_entropy(logits, labels, reduction="none")
    loss = torch.where(valid, terms, 0.0).sum() / count
    right = (logits.detach().argmax(dim=1) == labels) & valid
    return loss, {"cross_entropy": loss.detach(), "accuracy": right.sum() / count}


def anchor(tuned: Float[Tensor, "C N D"], frozen: Float[Tensor, "C D"]) -> Float[Tensor, ""]:
    """Return 1 - mean cos(tuned text feature, frozen feature of the same class), in [0, 2]; the loss of KgCoOp and TCP.

    Args:
        tuned: N features per class.
        frozen: those of the filled template.
    """
    return 1 - (normalize(tuned) * normalize(frozen)[:, None]).sum(dim=-1).mean()
