"""The LVM-Med loss: perturb the affinities, match, and pull towards the identity by a linear surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from medalign_core.ops.draws import generator
from medalign_core.solvers.affinities import Affinities, Perturbations, draw_perturbations
from medalign_core.solvers.affinities import matching_problem as problem_of
from medalign_core.solvers.graph_matching import GraphMatching, MatchingResult, Status
from medalign_core.solvers.implicit import MatchingGradient
from medalign_core.solvers.matching_problem import MatchingProblem
from medalign_core.solvers.matching_target import hamming
from medalign_core.solvers.noise import Noise
from medalign_core.types import DrawKey


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What training adds to the affinities.

    Attributes:
        noise: "gumbel" and "sum_of_gamma": independent draws of that scale on all vertex and edge affinities (see
            solvers.noise); "margin": `scale` off the vertex affinity of each true pair.
        scale: >= 0; 0 leaves the affinities as they are.
        samples: how many draws are solved and averaged; of nothing random, one.
    """

    noise: Literal["gumbel", "sum_of_gamma", "margin"]
    scale: float
    samples: int = 1


def perturb(affinities: Affinities, key: DrawKey, perturbation: Perturbation | None) -> Perturbations | None:
    """Return what is added to the affinities, None for nothing.

    The noise of graph g is drawn from a stream of its own, keyed by (seed, step, micro-batch, g).
    """
    if perturbation is None or perturbation.scale == 0:
        return None
    graphs, size, _ = affinities.vertex.shape
    if perturbation.noise == "margin":
        return Perturbations(vertex=np.tile(-perturbation.scale * np.eye(size), (1, graphs, 1, 1)))
    noise = Noise(distribution=perturbation.noise, scale=perturbation.scale, degree=size)
    draws = [generator(*key, g, "noise") for g in range(graphs)]
    return draw_perturbations(affinities, noise, draws, samples=perturbation.samples)


def matching_problem(affinities: Affinities, key: DrawKey, perturbation: Perturbation | None) -> MatchingProblem:
    """Return the problems to solve, on the CPU, perturbed, with the order that keeps ties fair."""
    return problem_of(affinities, perturb(affinities, key, perturbation))


def draw_orders(key: DrawKey, graphs: int, nodes: int) -> Int[Tensor, "G N"]:
    """Return a permutation of the nodes for each graph, keyed by (seed, step, micro-batch, graph), on the CPU."""
    return torch.stack([torch.randperm(nodes, generator=generator(*key, g, "order")) for g in range(graphs)])


def matching_loss(
    affinities: Affinities,
    key: DrawKey,
    *,
    solver: GraphMatching,
    gradient: MatchingGradient,
    perturbation: Perturbation | None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], MatchingResult]:
    """Return (loss, stats, solution): the surrogate of the Hamming loss to the identity, averaged over graphs.

    The mean is over graphs with at least two valid nodes; without any the loss is 0, still connected to the affinities.

    Args:
        affinities: of G graphs, their holes given by `valid`.
        key: what the draws are keyed by.
        solver: the matcher.
        gradient: the estimator, with its lambda.
        perturbation: None in evaluation.
    """
    assert affinities.valid is not None
    matched = gradient(affinities, solver, perturb(affinities, key, perturbation))
    valid = affinities.valid.cpu().numpy()
    counted = valid.sum(axis=1) >= 2
    share = torch.from_numpy(counted / max(counted.sum(), 1)).to(matched.loss)
    samples = len(matched.solution.matching) // len(valid)
    stats = _solution_stats(
        np.tile(valid, (samples, 1)), np.tile(counted, samples), matched.solution, matched.target_solved
    )
    loss = (matched.loss * share).sum()
    return loss, {name: torch.tensor(v, device=loss.device) for name, v in stats.items()}, matched.solution


def _solution_stats(
    valid: np.ndarray, counted: np.ndarray, solution: MatchingResult, solved: np.ndarray
) -> dict[str, float]:
    graphs, nodes = max(int(counted.sum()), 1), max(int(valid[counted].sum()), 1)
    right = (solution.matching == np.arange(valid.shape[1])) & valid
    return {
        "hamming": float(hamming(solution.matching, valid)[counted].sum() / graphs),
        "matching_accuracy": float(right[counted].sum() / nodes),
        "solver_failures": float((solution.status[counted] == Status.FAILED).sum()),
        "solver_iterations": float(solution.iterations[counted].sum() / graphs),
        "target_solves": float(solved[counted].sum() / graphs),
    }
