from dataclasses import replace

import numpy as np
import pytest
from core_problems import brute_force, noisy_views, partial_brute_force

from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.solvers.matching_problem import MatchingProblem
from medalign_core.solvers.matching_target import Target, hamming, is_saturated, target_matching

SOLVER = GraphMatching()
IDENTITY = np.arange(16)


def target(problem: MatchingProblem, strength: float, *, found: np.ndarray | None = None, **options) -> Target:
    graphs, size = problem.vertex_affinity.shape[:2]
    nothing = np.full((graphs, size), -1) if found is None else found  # by default no answer is known beforehand
    strengths = np.full(graphs, strength)
    return target_matching(SOLVER, problem, nothing, strength=strengths, **{"edge_weight": 1.0, **options})


def saturated(problem: MatchingProblem, strength: float, *, edge_weight: float = 1.0, partial: bool = False):
    strengths = np.full(len(problem.vertex_affinity), strength)
    return is_saturated(problem, strength=strengths, edge_weight=edge_weight, partial=partial)


def shifted(problem: MatchingProblem, strength: float) -> MatchingProblem:
    move = strength * (1.0 - 2.0 * np.eye(problem.size))
    return replace(problem, vertex_affinity=problem.vertex_affinity - move)


def in_factors(problem: MatchingProblem, rank: int = 3, seed: int = 0) -> tuple[MatchingProblem, MatchingProblem]:
    """The problem with other edge affinities, once as factors with an offset and once as their table."""
    draws, edges = np.random.default_rng(seed), (problem.edges_s, problem.edges_t)
    x, y = (draws.normal(size=(*e.shape[:2], rank)) / rank for e in edges)
    factors = replace(problem, edge_affinity=None, edge_features_s=x, edge_features_t=y, edge_offset=-0.2)
    table = replace(problem, edge_affinity=x @ y.transpose(0, 2, 1) - 0.2)
    return factors, table


def test_hamming_is_twice_the_wrong_rows_of_a_permutation_and_never_two():
    matchings = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]])
    everyone = np.ones((4, 4), dtype=bool)
    assert hamming(matchings, everyone).tolist() == [0, 4, 6, 8]
    assert hamming(matchings).tolist() == [0, 4, 6, 8]
    for matching in matchings:
        table, truth = np.eye(4)[matching], np.eye(4)
        definition = (table * (1 - truth) + truth * (1 - table)).sum()
        assert hamming(matching[None], everyone[:1])[0] == definition
    values = {hamming(np.random.default_rng(s).permutation(5)[None], np.ones((1, 5), bool))[0] for s in range(300)}
    assert values == {0, 4, 6, 8, 10}


def test_hamming_of_a_partial_matching_counts_an_unmatched_node_half_as_much_as_a_wrong_one():
    size = 5
    derangement, swap = np.roll(np.arange(size), 1), np.array([1, 0, 2, 3, 4])
    one_left, nobody = np.array([0, -1, 2, 3, 4]), np.full(size, -1)
    mean = hamming(np.stack([derangement, swap, one_left, nobody])) / size
    np.testing.assert_allclose(mean, [2.0, 4 / size, 1 / size, 1.0])


def test_holes_count_nothing_in_the_hamming_loss():
    valid = np.array([[True, True, False]])
    assert hamming(np.array([[1, 0, 2]]), valid)[0] == 4
    assert hamming(np.array([[0, 1, -1]]), valid)[0] == 0


@pytest.mark.parametrize("gumbel", [0.0, 0.05, 1.0])
def test_at_the_published_strength_the_short_cut_equals_the_two_solves(gumbel):
    problem = noisy_views(8, sigma=2.0, gumbel=gumbel)
    short, exact = target(problem, 80.0), target(problem, 80.0, always_solve=True)
    assert not short.solved.any()
    assert exact.solved.all()
    assert (short.matching == exact.matching).all()
    assert (exact.matching == IDENTITY).all()


@pytest.mark.parametrize(("gumbel", "enough"), [(0.05, 5.0), (1.0, 20.0)])
def test_the_target_saturates_as_lambda_grows(gumbel, enough):
    problem = noisy_views(8, sigma=2.0, gumbel=gumbel)
    rates = [
        (target(problem, strength, always_solve=True).matching == IDENTITY).all(axis=1).mean()
        for strength in (0.01, enough, 80.0)
    ]
    assert rates[0] < 1.0
    assert rates[1:] == [1.0, 1.0]


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("form", ["table", "factors"])
def test_what_is_called_saturated_has_the_identity_as_its_optimum(strength, form):
    problem = noisy_views(20, nodes=6, neighbours=2, sigma=1.0, gumbel=0.3)
    asked = problem
    if form == "factors":
        asked, problem = in_factors(problem)
    proven = saturated(asked, strength, edge_weight=0.5)
    best = np.stack([brute_force(shifted(problem, strength), g, edge_weight=0.5)[0] for g in range(20)])
    assert (best[proven] == np.arange(6)).all()
    if strength == 10.0:
        assert proven.all()
    if strength == 0.05:
        assert not proven.any()


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0, 6.0])
def test_what_is_called_saturated_among_partial_matchings_has_the_identity_as_its_optimum(strength):
    problem = noisy_views(16, nodes=4, neighbours=2, sigma=1.0, gumbel=0.3)
    problem = replace(problem, vertex_affinity=problem.vertex_affinity - 1.5)
    proven = saturated(problem, strength, partial=True)
    best = np.stack([partial_brute_force(shifted(problem, strength), g)[0] for g in range(16)])
    assert (best[proven] == np.arange(4)).all()
    assert not (proven & ~saturated(problem, strength)).any()  # leaving nodes out is one way more to do better
    if strength == 6.0:
        assert proven.all()
    if strength == 1.0:  # a full matching must move a wrong pair, a partial one just drops it
        assert saturated(problem, strength).sum() > proven.sum()


def test_the_bound_in_factor_form_is_never_bolder_than_that_of_the_table():
    factors, table = in_factors(noisy_views(30, nodes=6, neighbours=2, sigma=1.0, gumbel=0.3))
    shares = []
    for strength in (0.5, 1.0, 1.5, 2.0, 3.0):
        bold, careful = saturated(table, strength), saturated(factors, strength)
        assert not (careful & ~bold).any()
        shares.append(careful.mean())
    assert shares[0] < 0.5 < shares[-1]


def test_short_cut_and_oracle_agree_where_only_some_problems_are_saturated():
    problem = noisy_views(12, sigma=1.5, gumbel=0.3)
    shares = []
    for strength in (2.0, 8.0, 12.0, 16.0, 25.0):
        short, exact = target(problem, strength), target(problem, strength, always_solve=True)
        assert (short.matching == exact.matching).all()
        shares.append(short.solved.mean())
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert any(0 < share < 1 for share in shares)


def test_where_the_identity_was_found_it_is_the_target_without_a_second_solve():
    problem = noisy_views(6, sigma=0.3)
    found = SOLVER(problem).matching
    assert (found == IDENTITY).all()
    for strength in (0.01, 0.5):
        assert not saturated(problem, strength).any()
        short = target(problem, strength, found=found)
        assert not short.solved.any()
        assert (short.matching == target(problem, strength, always_solve=True).matching).all()


def test_a_target_that_is_not_moved_is_what_was_found():
    problem = noisy_views(4, gumbel=1.0)
    found = SOLVER(problem).matching
    still = target(problem, 0.0, found=found)
    assert not still.solved.any()
    assert (still.matching == found).all()


def test_each_problem_has_a_strength_of_its_own():
    problem = noisy_views(3, sigma=2.0, gumbel=0.3)
    found, strength = SOLVER(problem).matching, np.array([0.0, 1.0, 80.0])
    mixed = target_matching(SOLVER, problem, found, strength=strength, edge_weight=1.0)
    assert mixed.solved.tolist() == [False, True, False]
    assert (mixed.matching[0] == found[0]).all()
    assert (mixed.matching[1] == target(problem, 1.0).matching[1]).all()
    assert (mixed.matching[2] == IDENTITY).all()


def test_problems_that_are_not_finite_are_never_called_saturated():
    problem = noisy_views(2)
    vertex = problem.vertex_affinity.copy()
    vertex[0, 3, 4] = np.nan
    assert saturated(replace(problem, vertex_affinity=vertex), 80.0).tolist() == [False, True]
