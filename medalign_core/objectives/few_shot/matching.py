"""Scores of images against classes by the coupling of their unit vectors, and the couplings themselves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.solvers.sinkhorn import Status


class Matching(NamedTuple):
    """The couplings of B images with C classes.

    Attributes:
        plan: (B, C, M, N), T.
        similarity: (B, C, M, N), S.
        iterations: (B, C) taken by the solver; 0 for a uniform coupling.
        converged: (B, C) bool.
    """

    plan: Float[Tensor, "B C M N"]
    similarity: Float[Tensor, "B C M N"]
    iterations: Float[Tensor, "B C"]
    converged: Bool[Tensor, "B C"]


def score(
    coupling: Coupling,
    tokens: Float[Tensor, "B M D"],
    atoms: Float[Tensor, "C N D"],
    valid: Bool[Tensor, "C N"] | None = None,
) -> Float[Tensor, "B C"]:
    """Return the score of each image with each class; only chunks of classes are in memory at a time.

    Args:
        coupling: how.
        tokens: of unit length.
        atoms: the classes' prompts, of unit length.
        valid: which of them exist; None: all.
    """
    if coupling.kind == "uniform":
        return tokens.mean(dim=1) @ _mean_atom(atoms, valid).T
    return coupling.solver().score(tokens, atoms, valid_b=valid, score=coupling.score)


@torch.no_grad()
def match(
    coupling: Coupling,
    tokens: Float[Tensor, "B M D"],
    atoms: Float[Tensor, "C N D"],
    valid: Bool[Tensor, "C N"] | None = None,
) -> Matching:
    """Return the whole couplings: for a few images, B C M N numbers."""
    similarity = torch.einsum("bmd,cnd->bcmn", tokens, atoms)
    images, classes, rows, columns = similarity.shape
    if valid is None:
        valid = torch.ones(classes, columns, dtype=torch.bool, device=atoms.device)
    if coupling.kind == "uniform":
        weight = valid / valid.sum(dim=1, keepdim=True)
        plan = (weight / rows)[None, :, None].to(similarity.dtype).expand_as(similarity)
        none = similarity.new_zeros(images, classes)
        return Matching(plan, similarity, none, none == 0)
    found = coupling.solver()(
        1 - similarity.flatten(0, 1), valid_b=valid.expand(images, -1, -1).reshape(images * classes, columns)
    )
    per_pair = (images, classes)
    return Matching(
        found.plan().reshape(similarity.shape),
        similarity,
        found.iterations.reshape(per_pair).to(similarity.dtype),
        (found.status == Status.CONVERGED).reshape(per_pair),
    )


def _mean_atom(atoms: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return atoms.mean(dim=1)
    weight = (valid / valid.sum(dim=1, keepdim=True)).to(atoms.dtype)
    return (atoms * weight[:, :, None]).sum(dim=1)
