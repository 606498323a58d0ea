"""The losses of segmentation: cross-entropy per pixel and soft Dice per class, over pixels that are known."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional

IGNORED = 255


def known_pixels(masks: Integer[Tensor, "B H W"], valid: Bool[Tensor, " B"]) -> Bool[Tensor, "B H W"]:
    """Return which pixels count: those of valid images that have a class."""
    return valid[:, None, None] & (masks != IGNORED)


def pixel_cross_entropy(
    logits: Float[Tensor, "B C H W"], masks: Integer[Tensor, "B H W"], known: Bool[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Return the mean of -log softmax(logits)[class] over the known pixels; 0 where there is none."""
    taken = torch.where(known, masks.long(), 0)
    terms = functional.cross_entropy(logits, taken, reduction="none")
    return (terms * known).sum() / known.sum().clamp(min=1)


def dice_loss(
    logits: Float[Tensor, "B C H W"], masks: Integer[Tensor, "B H W"], known: Bool[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Return 1 less the mean over classes of (2 sum p g + 1) / (sum p + sum g + 1), sums over the batch's known pixels.

    p is the softmax and g the one-hot mask. Sums are over the whole micro-batch, so that a class which an image lacks
    does not make its term jump; the 1 (Laplace smoothing) defines a class that the batch lacks: p = 0 gives 1. Without
    a known pixel the loss is 0.
    """
    classes = logits.shape[1]
    taken = torch.where(known, masks.long(), 0)
    truth = functional.one_hot(taken, classes).movedim(-1, 1) * known[:, None]
    chance = logits.softmax(1) * known[:, None]
    both = (chance * truth).sum((0, 2, 3))
    total = chance.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return 1 - ((2 * both + 1) / (total + 1)).mean()


def batch_dice(
    predicted: Integer[Tensor, "B H W"], masks: Integer[Tensor, "B H W"], known: Bool[Tensor, "B H W"], *, classes: int
) -> Float[Tensor, ""]:
    """Return the mean Dice of the classes but the background over all known pixels of a batch; absent ones left out."""
    scores, present = [], []
    for c in range(1, classes):
        ours, theirs = (predicted == c) & known, (masks == c) & known
        total = ours.sum() + theirs.sum()
        scores.append(2 * (ours & theirs).sum() / total.clamp(min=1))
        present.append(total > 0)
    there = torch.stack(present)
    return (torch.stack(scores) * there).sum() / there.sum().clamp(min=1)
