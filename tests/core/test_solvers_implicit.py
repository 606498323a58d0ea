import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from core_problems import brute_force, noisy_views

from medalign_core.solvers.graph_matching import GraphMatching, MatchingResult, Status
from medalign_core.solvers.implicit import (
    is_saturated,
    match_edges,
    matching_score,
    surrogate_loss,
    target_matching,
)
from medalign_core.solvers.matching_problem import MatchingProblem, score

SOLVER = GraphMatching()
IDENTITY = np.arange(16)


def gradients(
    problem: MatchingProblem, *, strength: float, always_solve: bool = False, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matching and the surrogate's gradients by the clean affinities, which here are the perturbed ones."""
    solution = SOLVER(problem)
    target = target_matching(SOLVER, problem, strength=strength, edge_weight=1.0, always_solve=always_solve)
    vertex, edge = (
        torch.tensor(table, requires_grad=True) for table in (problem.vertex_affinity, problem.edge_affinity)
    )
    loss = surrogate_loss(
        vertex,
        edge,
        edges=(torch.tensor(problem.edges_s), torch.tensor(problem.edges_t)),
        matching=torch.tensor(solution.matching),
        target=torch.tensor(target.matching),
        strength=strength,
        edge_weight=1.0,
    )
    (loss.sum() * scale).backward()
    return solution.matching, vertex.grad.numpy(), edge.grad.numpy()


@pytest.mark.parametrize("gumbel", [0.0, 0.05, 1.0])
def test_at_the_published_strength_the_short_cut_equals_the_two_solves(gumbel):
    problem = noisy_views(8, sigma=2.0, gumbel=gumbel)
    short = target_matching(SOLVER, problem, strength=80.0, edge_weight=1.0)
    exact = target_matching(SOLVER, problem, strength=80.0, edge_weight=1.0, always_solve=True)
    assert not short.solved.any()
    assert exact.solved.all()
    assert (short.matching == exact.matching).all()
    assert (exact.matching == IDENTITY).all()
    for skipped, oracle in zip(
        gradients(problem, strength=80.0), gradients(problem, strength=80.0, always_solve=True), strict=True
    ):
        assert (skipped == oracle).all()


@pytest.mark.parametrize(("gumbel", "enough"), [(0.05, 5.0), (1.0, 20.0)])
def test_the_target_saturates_as_lambda_grows(gumbel, enough):
    problem = noisy_views(8, sigma=2.0, gumbel=gumbel)
    rates = []
    for strength in (0.01, enough, 80.0):
        target = target_matching(SOLVER, problem, strength=strength, edge_weight=1.0, always_solve=True)
        rates.append((target.matching == IDENTITY).all(axis=1).mean())
    assert rates[0] < 1.0
    assert rates[1:] == [1.0, 1.0]


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0, 3.0, 10.0])
def test_what_is_called_saturated_has_the_identity_as_its_optimum(strength):
    problem = noisy_views(20, nodes=6, neighbours=2, sigma=1.0, gumbel=0.3)
    proven = is_saturated(problem, strength=strength, edge_weight=0.5)
    shift = strength * (1.0 - 2.0 * np.eye(6))
    shifted = replace(problem, vertex_affinity=problem.vertex_affinity - shift)
    best = np.stack([brute_force(shifted, g, edge_weight=0.5)[0] for g in range(20)])
    assert (best[proven] == np.arange(6)).all()
    if strength == 10.0:
        assert proven.all()
    if strength == 0.05:
        assert not proven.any()


def test_short_cut_and_oracle_agree_where_only_some_problems_are_saturated():
    problem = noisy_views(12, sigma=1.5, gumbel=0.3)
    strengths = np.array([2.0, 8.0, 12.0, 16.0, 25.0])
    shares = []
    for strength in strengths:
        short = target_matching(SOLVER, problem, strength=strength, edge_weight=1.0)
        exact = target_matching(SOLVER, problem, strength=strength, edge_weight=1.0, always_solve=True)
        assert (short.matching == exact.matching).all()
        shares.append(short.solved.mean())
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert any(0 < share < 1 for share in shares)


def test_problems_that_are_not_finite_are_never_called_saturated():
    problem = noisy_views(2)
    vertex = problem.vertex_affinity.copy()
    vertex[0, 3, 4] = np.nan
    assert is_saturated(replace(problem, vertex_affinity=vertex), strength=80.0, edge_weight=1.0).tolist() == [
        False,
        True,
    ]


def test_the_gradient_is_exactly_zero_where_the_identity_is_found():
    matching, vertex, edge = gradients(noisy_views(4, sigma=0.2), strength=80.0)
    assert (matching == IDENTITY).all()
    assert (vertex == 0).all()
    assert (edge == 0).all()


@pytest.mark.parametrize("strength", [5.0, 80.0])
def test_the_gradient_holds_units_over_lambda_whose_rows_and_columns_cancel(strength):
    matching, vertex, edge = gradients(noisy_views(6, gumbel=1.0), strength=strength)
    assert (matching != IDENTITY).any(axis=1).all()
    np.testing.assert_allclose(vertex.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(vertex.sum(axis=2), 0, atol=1e-15)
    for table in (vertex, edge):
        assert np.isin(np.round(table * strength, 12), (-1, 0, 1)).all()
    assert (np.abs(edge).sum(axis=(1, 2)) > 0).all()  # though no edge affinity is shifted


def test_the_saturated_gradient_is_that_of_a_structured_perceptron():
    problem = noisy_views(4, gumbel=1.0)
    matching, vertex, edge = gradients(problem, strength=80.0)
    for g in range(4):
        expected = (np.eye(16)[matching[g]] - np.eye(16)) / 80
        np.testing.assert_allclose(vertex[g], expected)
        for e, (i, j) in enumerate(problem.edges_s[g]):
            for f, (a, b) in enumerate(problem.edges_t[g]):
                found = matching[g, i] == a and matching[g, j] == b
                assert edge[g, e, f] == pytest.approx((float(found) - float(i == a and j == b)) / 80)


def test_the_gradient_is_linear_in_what_comes_in():
    problem = noisy_views(4, gumbel=1.0)
    _, vertex, edge = gradients(problem, strength=1.0)
    for scale in (65536.0, 1e-3):
        _, scaled_vertex, scaled_edge = gradients(problem, strength=1.0, scale=scale)
        np.testing.assert_allclose(scaled_vertex / scale, vertex, rtol=1e-12)
        np.testing.assert_allclose(scaled_edge / scale, edge, rtol=1e-12)


def test_a_small_step_down_raises_the_identity_over_what_was_found():
    problem = noisy_views(6, gumbel=1.0)
    matching, vertex, edge = gradients(problem, strength=80.0)
    stepped = replace(
        problem, vertex_affinity=problem.vertex_affinity - vertex, edge_affinity=problem.edge_affinity - edge
    )
    truth = np.tile(IDENTITY, (6, 1))
    before = score(problem, truth) - score(problem, matching)
    after = score(stepped, truth) - score(stepped, matching)
    assert (after > before).all()


def test_the_differentiable_score_equals_the_solvers_and_passes_a_gradient_check():
    problem = noisy_views(2, nodes=7, neighbours=3, gumbel=1.0)
    matching = torch.tensor(SOLVER(problem).matching)
    edges = torch.tensor(problem.edges_s), torch.tensor(problem.edges_t)
    matched = match_edges(matching, *edges)
    tables = [torch.tensor(t, requires_grad=True) for t in (problem.vertex_affinity, problem.edge_affinity)]

    def value(vertex: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
        return matching_score(vertex, edge, matched, matching, edge_weight=0.5)

    expected = score(problem, matching.numpy(), edge_weight=0.5)
    np.testing.assert_allclose(value(*tables).detach().numpy(), expected)
    assert torch.autograd.gradcheck(value, tables)


def test_a_strength_that_is_not_positive_raises():
    with pytest.raises(ValueError, match=r"strength \(lambda\) must be > 0, got 0"):
        target_matching(SOLVER, noisy_views(1), strength=0.0, edge_weight=1.0)


class Enumeration:
    """All 24 matchings of one problem with 4 nodes: F at affinities theta is `features` @ theta."""

    def __init__(self, problem: MatchingProblem) -> None:
        self.matchings = np.array(list(itertools.permutations(range(4))))
        rows = []
        for p in self.matchings:
            ends = p[problem.edges_s[0]]
            hit = (ends[:, None] == problem.edges_t[0][None]).all(axis=2)
            rows.append(np.concatenate([np.eye(4)[p].ravel(), hit.ravel()]))
        self.features = np.array(rows, dtype=np.float64)
        self.hamming = 2.0 * (self.matchings != np.arange(4)).sum(axis=1)

    def __call__(self, problem: MatchingProblem) -> MatchingResult:
        count = len(problem.vertex_affinity)
        theta = np.concatenate(
            [problem.vertex_affinity.reshape(count, -1), problem.edge_affinity.reshape(count, -1)], axis=1
        )
        values = theta @ self.features.T
        best = values.argmax(axis=1)
        return MatchingResult(
            matching=self.matchings[best],
            objective=values.max(axis=1),
            status=np.full(count, int(Status.CONVERGED)),
            iterations=np.ones(count, dtype=np.int64),
        )

    def expected_hamming_gradient(self, theta: np.ndarray, noise: np.ndarray, step: float) -> np.ndarray:
        """Central differences of the mean Hamming loss over the same noise."""
        values = (theta + noise) @ self.features.T
        slopes = []
        for column in self.features.T:
            ahead, behind = (self.hamming[(values + s * column).argmax(axis=1)].mean() for s in (step, -step))
            slopes.append((ahead - behind) / (2 * step))
        return np.array(slopes)


def alignment(one: MatchingProblem, *, strength: float, gumbel: float) -> float:
    """Cosine between the estimator, averaged over 40,000 draws, and finite differences over the same draws."""
    enumeration = Enumeration(one)
    draws, count = np.random.default_rng(0), 40_000
    noise = gumbel * draws.gumbel(size=(count, 16 + 64))
    theta = np.concatenate([one.vertex_affinity.ravel(), one.edge_affinity.ravel()])
    perturbed = theta + noise
    problem = MatchingProblem(
        vertex_affinity=perturbed[:, :16].reshape(count, 4, 4),
        edge_affinity=perturbed[:, 16:].reshape(count, 8, 8),
        edges_s=np.tile(one.edges_s, (count, 1, 1)),
        edges_t=np.tile(one.edges_t, (count, 1, 1)),
    )
    target = target_matching(enumeration, problem, strength=strength, edge_weight=1.0)
    leaves = [torch.tensor(t[0], requires_grad=True) for t in (one.vertex_affinity, one.edge_affinity)]
    loss = surrogate_loss(
        leaves[0].expand(count, 4, 4),
        leaves[1].expand(count, 8, 8),
        edges=(torch.tensor(problem.edges_s), torch.tensor(problem.edges_t)),
        matching=torch.tensor(enumeration(problem).matching),
        target=torch.tensor(target.matching),
        strength=strength,
        edge_weight=1.0,
    )
    loss.mean().backward()
    estimate = np.concatenate([leaf.grad.numpy().ravel() for leaf in leaves])
    exact = enumeration.expected_hamming_gradient(theta, noise, step=0.2 * gumbel)
    return float(estimate @ exact / (np.linalg.norm(estimate) * np.linalg.norm(exact)))


@pytest.mark.parametrize(
    ("strength", "gumbel"), [(0.3, 1.0), (1.0, 1.0), (5.0, 1.0), (80.0, 1.0), (0.3, 0.3), (80.0, 0.3)]
)
def test_the_averaged_estimator_points_along_the_gradient_of_the_expected_hamming_loss(strength, gumbel):
    one = noisy_views(1, nodes=4, neighbours=2, sigma=1.0, seed=2)
    assert alignment(one, strength=strength, gumbel=gumbel) >= 0.9


def test_where_the_truth_is_out_of_reach_only_a_small_lambda_keeps_the_direction():
    one = noisy_views(1, nodes=4, neighbours=2, sigma=1.0, size=3, seed=0)  # wrong in 99 % of the draws
    assert alignment(one, strength=0.3, gumbel=1.0) >= 0.98
    assert alignment(one, strength=80.0, gumbel=1.0) <= 0.5
