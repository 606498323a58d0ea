"""Scores of sets of vectors against sets of vectors by transport, without ever holding all similarities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from medalign_core.ops.cosine import at_least_float32
from medalign_core.solvers.transport.backends import Solved
from medalign_core.solvers.transport.plans import value_and_mass
from medalign_core.solvers.transport.problem import Problem
from medalign_core.solvers.transport.solve import find_potentials, read

if TYPE_CHECKING:
    from medalign_core.solvers.sinkhorn import Sinkhorn

ENTRIES = 1 << 24  # of S kept at a time
SCORES = ("sim", "norm_sim", "value")


@dataclass(frozen=True)
class Weights:
    """The weights of the samples' vectors (a) and of the classes' (b), and which exist; None: uniform, all."""

    a: Tensor | None = None
    b: Tensor | None = None
    valid_a: Tensor | None = None
    valid_b: Tensor | None = None


def score_factors(
    settings: Sinkhorn,
    v: Float[Tensor, "B M D"],
    g: Float[Tensor, "C N D"],
    *,
    weights: Weights,
    score: Literal["sim", "norm_sim", "value"],
    pairs: int | None,
) -> Float[Tensor, "B C"]:
    """Score every sample against every class; see `Sinkhorn.score`."""
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}.")
    if settings.method in ("exact", "mm") or settings.gradient == "unroll":
        raise ValueError(
            f"scores need an entropic method and no unrolling, got method={settings.method!r}, "
            f"gradient={settings.gradient!r}; call the solver on 1 - S instead."
        )
    if v.ndim != 3 or g.ndim != 3 or v.shape[2] != g.shape[2]:
        raise ValueError(f"v must be (B, M, D) and g (C, N, D), got {tuple(v.shape)} and {tuple(g.shape)}.")
    if pairs is not None and pairs < 1:
        raise ValueError(f"pairs must be >= 1, got {pairs}.")
    size = max(1, (ENTRIES // (v.shape[1] * g.shape[1]) if pairs is None else pairs) // max(1, len(v)))
    plan = _Plan(settings, weights, score, size)
    return _Score.apply(at_least_float32(v), at_least_float32(g), plan)


@dataclass(frozen=True)
class _Plan:
    """How the scores are made: the solver, the weights, which score, classes per chunk."""

    settings: Sinkhorn
    weights: Weights
    score: str
    size: int

    def chunks(self, classes: int) -> Iterator[slice]:
        """Return the chunks of classes."""
        for start in range(0, classes, self.size):
            yield slice(start, min(start + self.size, classes))

    def problem(self, similarity: Float[Tensor, "P M N"], *, samples: int, at: slice) -> Problem:
        """Return the problems of all samples against some classes, sample by sample."""
        w, classes = self.weights, at.stop - at.start
        return read(
            self.settings,
            1 - similarity,
            None if w.a is None else _of_samples(w.a, samples, classes),
            None if w.b is None else _of_classes(w.b, samples, at),
            valid_a=None if w.valid_a is None else _of_samples(w.valid_a, samples, classes),
            valid_b=None if w.valid_b is None else _of_classes(w.valid_b, samples, at),
        )


def _of_samples(weight: Tensor, samples: int, classes: int) -> Tensor:
    if weight.ndim == 1:
        return weight
    return weight[:, None].expand(samples, classes, -1).reshape(samples * classes, -1)


def _of_classes(weight: Tensor, samples: int, at: slice) -> Tensor:
    if weight.ndim == 1:
        return weight
    return weight[at].expand(samples, -1, -1).reshape(samples * (at.stop - at.start), -1)


def _similarity(v: Tensor, g: Tensor) -> Tensor:
    """Return S of every sample with every class, (B C, M, N)."""
    return torch.einsum("bmd,cnd->bcmn", v, g).reshape(len(v) * len(g), v.shape[1], g.shape[1])


class _Score(torch.autograd.Function):
    """Scores by v and g. S and T are made again, chunk by chunk, when gradients are asked for."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, g: Tensor, plan: _Plan) -> Tensor:
        """Return (B, C); keep the potentials."""
        out, kept = v.new_empty(len(v), len(g)), []
        for at in plan.chunks(len(g)):
            similarity = _similarity(v, g[at])
            solved = find_potentials(plan.problem(similarity, samples=len(v), at=at), plan.settings)
            out[:, at] = _scores(solved, similarity, plan.score).reshape(len(v), -1)
            kept.append(solved.forgetful())
        ctx.save_for_backward(v, g)
        ctx.plan, ctx.kept = plan, kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of the factors, None of one that asks for none: visual tokens are often constants."""
        v, g = ctx.saved_tensors
        grad_v, grad_g = (torch.zeros_like(x) if ctx.needs_input_grad[i] else None for i, x in enumerate((v, g)))
        for at, remembered in zip(ctx.plan.chunks(len(g)), ctx.kept, strict=True):
            similarity = _similarity(v, g[at])
            solved = remembered.of(ctx.plan.problem(similarity, samples=len(v), at=at))
            change = _by_similarity(solved, similarity, grad[:, at].reshape(-1, 1, 1), plan=ctx.plan)
            change = change.reshape(len(v), -1, *change.shape[1:])
            if grad_v is not None:
                grad_v += torch.einsum("bcmn,cnd->bmd", change, g[at])
            if grad_g is not None:
                grad_g[at] = torch.einsum("bcmn,bmd->cnd", change, v)
        return grad_v, grad_g, None


def _scores(solved: Solved, similarity: Tensor, score: str) -> Tensor:
    if score == "value":
        return -value_and_mass(solved.tall, solved.outcome.f, solved.outcome.g)[0]
    plan = solved.plan()
    total = (plan * similarity).sum(dim=(1, 2))
    return total / plan.sum(dim=(1, 2)) if score == "norm_sim" else total


def _by_similarity(solved: Solved, similarity: Tensor, weight: Tensor, *, plan: _Plan) -> Tensor:
    """Return the gradient of sum weight * score by S.

    <T, S> and <T, S> / mass have T and T / mass for a fixed T; if "implicit" the plan adds its own part as a function
    of C = 1 - S. -V has exactly T.
    """
    transport = solved.plan()
    mass = transport.sum(dim=(1, 2), keepdim=True)
    scale = weight / mass if plan.score == "norm_sim" else weight
    change = scale * transport
    if plan.score == "value" or plan.settings.gradient != "implicit":
        return change
    by_plan = scale * similarity
    if plan.score == "norm_sim":
        by_plan = by_plan - scale * (transport * similarity).sum(dim=(1, 2), keepdim=True) / mass
    return change - solved.plan_backward(transport, by_plan)
