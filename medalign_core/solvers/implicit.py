"""Gradients of discrete matchings: the estimator of I-MLE and black-box differentiation, as a loss that is linear.

For affinities theta (maximised), p = argmax F_theta and the Hamming loss L(p) to the identity (see
`matching_target.hamming`), the estimator (Vlastelica et al. 2020; Niepert, Minervini and Franceschi 2021, with the
factor 1 / lambda) is
    dL/dtheta = (1 / lambda) * [ phi(p) - phi(p_target) ],    p_target = argmax of F at V - lambda * dL/dX,
with phi the indicators of matched vertices and of matched edges, and dL/dX = 1 - 2 X_true. Of the N^2 + S * T entries
of the gradient at most 2 N + 2 S are not zero; only these are ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medalign_core.ops.cosine import at_least_float32
from medalign_core.solvers.affinities import Affinities, Perturbations, matching_problem
from medalign_core.solvers.graph_matching import GraphMatching, MatchingResult, Status
from medalign_core.solvers.matching_problem import MatchingProblem, matched_edges
from medalign_core.solvers.matching_target import hamming, target_matching


@dataclass(frozen=True, kw_only=True)
class MatchingLoss:
    """The loss of G graphs and what it rests on; R samples of them were solved, sample by sample.

    Attributes:
        loss: (G,), differentiable by the affinities. "homogeneous": the surrogate (1 / lambda) * [F(p) - F(p_target)],
            by the unperturbed affinities, the mean over samples; "compat": the Hamming loss itself. nan where the
            problem FAILED.
        solution: of the R * G problems.
        target_solved: (R * G,), where the second solve was needed; in "compat" it is yet to come, and this is False.
    """

    loss: Float[Tensor, " G"]
    solution: MatchingResult
    target_solved: Bool[np.ndarray, " P"]


@dataclass(frozen=True, kw_only=True)
class MatchingGradient:
    """The loss of a matching against the identity, with the estimator above as its gradient.

    Attributes:
        strength: lambda > 0, how far the target is moved, for a Hamming loss that counts 2 for each wrong node. (For
            one that is divided by N: lambda / N, and divide the result by N.)
        estimator: "homogeneous" moves the target by `strength`, whatever comes in: the loss is a scalar for each graph
            whose gradient is the estimator, so it is exactly linear, and loss scales, weights and accumulation change
            nothing. "compat" is the estimator as published: the target is solved in the backward pass, moved by
            `strength` times the gradient that comes in, and the result does not grow with that gradient. Then a loss
            scale of c multiplies not the gradient but lambda, and dividing by c afterwards all but deletes it; a mean
            over G graphs divides lambda by G. One sample only; not twice differentiable.
    """

    strength: float = 80.0
    estimator: Literal["homogeneous", "compat"] = "homogeneous"

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength (lambda) must be > 0 and finite, got {self.strength}.")
        if self.estimator not in ("homogeneous", "compat"):
            raise ValueError(f"estimator must be 'homogeneous' or 'compat', got {self.estimator!r}.")

    def __call__(
        self,
        affinities: Affinities,
        solver: GraphMatching,
        perturbations: Perturbations | None = None,
        *,
        always_solve: bool = False,
    ) -> MatchingLoss:
        """Solve, and return the loss of each graph; several pairs of graphs of one size are one batch.

        Args:
            affinities: of G graphs; half precision is raised to float32.
            solver: the matcher, full or partial.
            perturbations: R samples of noise, or a margin; None for the affinities as they are.
            always_solve: never skip the second solve (the test oracle of the short cuts).

        Raises:
            ValueError: several samples with "compat".
        """
        problem = matching_problem(affinities, perturbations)
        step = _Step(problem, solver, solver(problem), self.strength, always_solve)
        graphs = len(affinities.vertex)
        samples = len(step.solution.matching) // graphs
        if self.estimator == "homogeneous":
            loss, solved = step.surrogate(affinities, np.full(samples * graphs, self.strength))
            return MatchingLoss(loss=loss, solution=step.solution, target_solved=solved)
        if samples != 1:
            raise ValueError(f"the published estimator ('compat') takes one sample, got {samples}.")
        loss = _Published.apply(affinities, step, *(getattr(affinities, name) for name in _DIFFERENTIABLE))
        return MatchingLoss(loss=loss, solution=step.solution, target_solved=np.zeros(graphs, dtype=bool))


class PaidEntries(NamedTuple):
    """The entries of the affinities of G graphs in which the scores of two matchings differ.

    Attributes:
        vertex: (V, 3), (graph, node of s, node of t).
        vertex_sign: +1 where the first matching pays it, -1 where the second does.
        edge: (E, 3), (graph, edge of s, edge of t).
        edge_sign: likewise.
    """

    vertex: Int[np.ndarray, "V 3"]
    vertex_sign: Float[np.ndarray, " V"]
    edge: Int[np.ndarray, "E 3"]
    edge_sign: Float[np.ndarray, " E"]


def paid_entries(
    problem: MatchingProblem, matching: Int[np.ndarray, "P N"], target: Int[np.ndarray, "P N"], *, graphs: int
) -> PaidEntries:
    """Return what F(matching) - F(target) is the signed sum of, less what both pay; holes pay nothing.

    Args:
        problem: P = R * G problems, sample by sample; problem r * G + g is a sample of graph g.
        matching: the first matchings, -1 where unmatched.
        target: the second ones.
        graphs: G.
    """
    differs = matching != target
    lands = [matched_edges(problem, p) for p in (matching, target)]
    moved = lands[0] != lands[1]
    if problem.valid is not None:
        differs &= problem.valid
        moved &= np.take_along_axis(problem.valid, problem.edges_s[..., 0], axis=1)
        moved &= np.take_along_axis(problem.valid, problem.edges_s[..., 1], axis=1)
    return PaidEntries(*_signed(differs, (matching, target), graphs), *_signed(moved, tuple(lands), graphs))


def score_difference(affinities: Affinities, entries: PaidEntries, *, edge_weight: float) -> Float[Tensor, " G"]:
    """Return the signed sum of the paid entries of each graph, the sum over samples; differentiable, also twice.

    Linear in the vertex affinities and in the edge affinities. In the factor forms the gradient goes straight to what
    the paid edges are made of, in O((N + S) D), and no (N k)^2 array is made. In float32 at least.
    """
    vertex, device = affinities.vertex, affinities.vertex.device
    graphs, size, _ = vertex.shape
    index, sign = torch.from_numpy(entries.vertex).to(device), torch.from_numpy(entries.vertex_sign).to(device)
    graph, i, a = index.unbind(dim=1)
    paid = at_least_float32(vertex.reshape(-1).index_select(0, (graph * size + i) * size + a))
    total = paid.new_zeros(graphs).index_add(0, graph, paid * sign.to(paid))
    index, sign = torch.from_numpy(entries.edge).to(device), torch.from_numpy(entries.edge_sign).to(device)
    paid = affinities.edge_pairs(*index.unbind(dim=1))
    return total.index_add(0, index[:, 0], (paid * (edge_weight * sign).to(paid)).to(total))


def _signed(kept: np.ndarray, partners: tuple[np.ndarray, ...], graphs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (graph, row, partner) and sign where `kept` and there is a partner, for a first and a second matching."""
    found = []
    for partner in partners:
        at, row = np.nonzero(kept & (partner >= 0))
        found.append(np.stack([at % graphs, row, partner[at, row]], axis=1))
    return np.concatenate(found), np.repeat([1.0, -1.0], [len(part) for part in found])


class _Step(NamedTuple):
    """A solved batch, and what its target and its loss need."""

    problem: MatchingProblem
    solver: GraphMatching
    solution: MatchingResult
    strength: float
    always_solve: bool

    def surrogate(self, affinities: Affinities, moved: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Return (1 / lambda) * [F(p) - F(p_target)], (G,), the mean over samples, for a target moved by `moved`."""
        weight = self.solver.edge_weight if self.solver.second_order else 0.0
        matching = self.solution.matching
        target = target_matching(
            self.solver,
            self.problem,
            matching,
            strength=moved,
            edge_weight=weight,
            partial=self.solver.partial,
            always_solve=self.always_solve,
        )
        samples = len(matching) // len(affinities.vertex)
        entries = paid_entries(self.problem, matching, target.matching, graphs=len(affinities.vertex))
        loss = score_difference(affinities, entries, edge_weight=weight) / (self.strength * samples)
        failed = (self.solution.status == Status.FAILED).reshape(samples, -1).any(axis=0)
        if failed.any():
            loss = loss * torch.from_numpy(np.where(failed, np.nan, 1.0)).to(loss)
        return loss, target.solved


_DIFFERENTIABLE = ("vertex", "edge", "edge_features_s", "edge_features_t", "nodes_s", "nodes_t")


class _Published(torch.autograd.Function):
    """The estimator as published: the target moves with the gradient that comes in."""

    @staticmethod
    def forward(ctx: Any, affinities: Affinities, step: _Step, *parts: Tensor | None) -> Tensor:
        ctx.affinities, ctx.step = affinities, step
        ctx.save_for_backward(*parts)
        loss = hamming(step.solution.matching, step.problem.valid)
        loss = np.where(step.solution.status == Status.FAILED, np.nan, loss)
        return torch.from_numpy(loss).to(at_least_float32(affinities.vertex.detach()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [None if part is None else part.detach().requires_grad_() for part in ctx.saved_tensors]
        affinities = replace(ctx.affinities, **dict(zip(_DIFFERENTIABLE, leaves, strict=True)))
        moved = ctx.step.strength * incoming.detach().cpu().numpy().astype(np.float64)
        with torch.enable_grad():
            loss, _ = ctx.step.surrogate(affinities, moved)
            inputs = [leaf for leaf in leaves if leaf is not None]
            gradients = iter(torch.autograd.grad(loss.sum(), inputs, allow_unused=True))
        return None, None, *(None if leaf is None else next(gradients) for leaf in leaves)
