"""The LVM-Med loss: perturb the affinities, match, and pull towards the identity by a linear surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from medalign_core.objectives.lvm_med.affinity import Affinities
from medalign_core.ops.draws import generator
from medalign_core.solvers.graph_matching import GraphMatching, MatchingResult, Status
from medalign_core.solvers.implicit import surrogate_loss, target_matching
from medalign_core.solvers.matching_problem import MatchingProblem
from medalign_core.types import DrawKey


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What training adds to the affinities.

    Attributes:
        noise: "gumbel": independent Gumbel(0, scale) draws on all vertex and edge affinities; "margin": `scale` off the
            vertex affinity of each true pair.
        scale: >= 0; 0 leaves the affinities as they are.
    """

    noise: Literal["gumbel", "margin"]
    scale: float


def matching_problem(affinities: Affinities, key: DrawKey, perturbation: Perturbation | None) -> MatchingProblem:
    """Return the problems to solve: the affinities on the CPU, perturbed, with the order that keeps ties fair.

    The noise of graph g is drawn from a stream of its own, keyed by (seed, step, micro-batch, g).
    """
    vertex = affinities.vertex.detach().cpu().numpy().astype(np.float64)
    edge = affinities.edge.detach().cpu().numpy().astype(np.float64)
    if perturbation is not None and perturbation.scale > 0:
        if perturbation.noise == "margin":
            vertex -= perturbation.scale * np.eye(vertex.shape[1])
        else:
            for g in range(len(vertex)):
                draws = generator(*key, g, "noise")
                vertex[g] += perturbation.scale * _gumbel(draws, vertex[g].shape)
                edge[g] += perturbation.scale * _gumbel(draws, edge[g].shape)
    return MatchingProblem(
        vertex_affinity=vertex,
        edge_affinity=edge,
        edges_s=affinities.edges_s.cpu().numpy(),
        edges_t=affinities.edges_t.cpu().numpy(),
        valid=affinities.valid.cpu().numpy(),
        order=affinities.order.cpu().numpy(),
    )


def draw_orders(key: DrawKey, graphs: int, nodes: int) -> Int[Tensor, "G N"]:
    """Return a permutation of the nodes for each graph, keyed by (seed, step, micro-batch, graph), on the CPU."""
    return torch.stack([torch.randperm(nodes, generator=generator(*key, g, "order")) for g in range(graphs)])


def matching_loss(
    affinities: Affinities, key: DrawKey, *, solver: GraphMatching, strength: float, perturbation: Perturbation | None
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], MatchingResult]:
    """Return (loss, stats, solution): the surrogate of the Hamming loss to the identity, averaged over graphs.

    The mean is over graphs with at least two valid nodes; without any the loss is 0, still connected to the affinities.

    Args:
        affinities: of G graphs.
        key: what the draws are keyed by.
        solver: the matcher.
        strength: lambda of the gradient estimator (see solvers.implicit).
        perturbation: None in evaluation.
    """
    problem = matching_problem(affinities, key, perturbation)
    solution = solver(problem)
    weight = solver.edge_weight if solver.second_order else 0.0
    target = target_matching(solver, problem, strength=strength, edge_weight=weight)
    device = affinities.vertex.device
    per_graph = surrogate_loss(
        affinities.vertex,
        affinities.edge,
        edges=(affinities.edges_s, affinities.edges_t),
        matching=torch.from_numpy(solution.matching).to(device),
        target=torch.from_numpy(target.matching).to(device),
        strength=strength,
        edge_weight=weight,
    )
    assert problem.valid is not None
    counted = problem.valid.sum(axis=1) >= 2
    share = torch.from_numpy(counted / max(counted.sum(), 1)).to(per_graph)
    stats = _solution_stats(problem.valid, counted, solution, target.solved)
    return (per_graph * share).sum(), {name: torch.tensor(v, device=device) for name, v in stats.items()}, solution


def hamming(matching: Int[np.ndarray, "G N"], valid: np.ndarray) -> Float[np.ndarray, " G"]:
    """Return sum v (1 - v*) + v* (1 - v) to the identity v*: twice the number of wrong valid rows, never 2."""
    wrong = (matching != np.arange(matching.shape[1])) & valid
    return 2.0 * wrong.sum(axis=1)


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


def _gumbel(draws: torch.Generator, shape: tuple[int, ...]) -> np.ndarray:
    uniform = torch.rand(shape, generator=draws, dtype=torch.float64).clamp_(min=1e-300)
    return -np.log(-np.log(uniform.numpy()))
