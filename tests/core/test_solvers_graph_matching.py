from dataclasses import replace

import numpy as np
import pygmtools
import pytest
from core_problems import brute_force, dense_affinity, noisy_views, objective_reference
from pygmtools.utils import compute_affinity_score

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.graph_matching import GraphMatching, Status
from medalign_core.solvers.matching_problem import MatchingProblem, score

SOLVER = GraphMatching()


def is_permutation(matching: np.ndarray) -> bool:
    return bool((np.sort(matching, axis=1) == np.arange(matching.shape[1])).all())


def random_matchings(problem: MatchingProblem, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return np.stack([draws.permutation(problem.size) for _ in problem.vertex_affinity])


def test_the_result_is_a_permutation_with_the_objective_it_reports():
    problem = noisy_views(4, gumbel=1.0)
    result = GraphMatching(edge_weight=0.5)(problem)
    assert is_permutation(result.matching)
    assert (result.status == Status.CONVERGED).all()
    for g in range(4):
        expected = objective_reference(problem, g, result.matching[g], edge_weight=0.5)
        assert result.objective[g] == pytest.approx(expected, rel=1e-12)


def test_score_equals_the_definition_at_any_permutation():
    problem = noisy_views(3, nodes=9, neighbours=4, gumbel=1.0)
    matching = random_matchings(problem)
    expected = [objective_reference(problem, g, matching[g], 0.7) for g in range(3)]
    np.testing.assert_allclose(score(problem, matching, edge_weight=0.7), expected)


@pytest.mark.parametrize(("nodes", "neighbours", "gumbel"), [(7, 3, 1.0), (7, 3, 0.1), (6, 2, 1.0), (5, 4, 1.0)])
def test_small_problems_are_solved_as_by_brute_force(nodes, neighbours, gumbel):
    problem = noisy_views(20, nodes=nodes, neighbours=neighbours, gumbel=gumbel, seed=nodes)
    result = SOLVER(problem)
    best = np.array([brute_force(problem, g)[1] for g in range(20)])
    np.testing.assert_allclose(result.objective, best)


def test_it_never_falls_behind_the_assignment_nor_behind_the_published_heuristics():
    problem = noisy_views(8, gumbel=1.0)  # all but random affinities: more climbs than these sizes usually take
    assert (SOLVER(problem).objective >= score(problem, assign(problem.vertex_affinity)) - 1e-9).all()
    result = GraphMatching(starts=64)(problem)
    pygmtools.set_backend("numpy")
    others = []
    for g in range(8):
        dense = dense_affinity(problem, g)
        dense = (dense + dense.T) / 2  # the same form, as the reference wants it
        # pygmtools numbers the pairs column by column
        swap = np.arange(256).reshape(16, 16).T.ravel()
        dense = dense[np.ix_(swap, swap)]
        shift = dense.min()  # its methods need affinities that are not negative
        soft = pygmtools.rrwm(np.where(dense != 0, dense - shift, 0.0), n1=[16], n2=[16])
        found = pygmtools.hungarian(soft)
        found = found[0] if found.ndim == 3 else found
        value = score(problem, found.argmax(axis=1)[None].repeat(8, axis=0))[g]
        assert compute_affinity_score(found[None], dense[None])[0] == pytest.approx(value)
        others.append(value)
    assert (result.objective >= np.array(others) - 1e-9).all()


def test_relabelling_one_graph_relabels_the_solution():
    problem = noisy_views(6, gumbel=0.3)
    label = np.random.default_rng(3).permutation(16)  # node a of t becomes node label[a]
    back = np.argsort(label)
    relabelled = replace(problem, vertex_affinity=problem.vertex_affinity[:, :, back], edges_t=label[problem.edges_t])
    plain, moved = SOLVER(problem), SOLVER(relabelled)
    assert (label[plain.matching] == moved.matching).all()
    np.testing.assert_allclose(moved.objective, plain.objective)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_the_identity_is_recovered_from_noisy_views(sigma):
    result = SOLVER(noisy_views(16, sigma=sigma))
    assert (result.matching == np.arange(16)).all()


def test_second_order_helps_when_the_affinities_are_noisy():
    problem = noisy_views(16, sigma=0.5, gumbel=0.3)
    quadratic = (SOLVER(problem).matching == np.arange(16)).mean()
    linear = (GraphMatching(second_order=False)(problem).matching == np.arange(16)).mean()
    assert quadratic >= 0.97
    assert linear <= 0.80


def test_without_second_order_it_is_the_assignment():
    problem = noisy_views(5, gumbel=1.0)
    expected = assign(problem.vertex_affinity)
    for solver in (GraphMatching(second_order=False), GraphMatching(edge_weight=0.0)):
        result = solver(problem)
        assert (result.matching == expected).all()
        first_order = problem.vertex_affinity[np.arange(5)[:, None], np.arange(16), expected].sum(axis=1)
        np.testing.assert_allclose(result.objective, first_order)
    zero = SOLVER(replace(problem, edge_affinity=np.zeros_like(problem.edge_affinity)))
    assert (zero.matching == expected).all()


def test_an_answer_does_not_depend_on_the_other_problems_of_the_batch():
    problem = noisy_views(6, gumbel=1.0)
    order = [4, 1, 5]
    part = MatchingProblem(
        vertex_affinity=problem.vertex_affinity[order],
        edge_affinity=problem.edge_affinity[order],
        edges_s=problem.edges_s[order],
        edges_t=problem.edges_t[order],
    )
    assert (SOLVER(part).matching == SOLVER(problem).matching[order]).all()


def test_when_all_affinities_tie_a_drawn_order_keeps_the_identity_from_winning():
    constant = MatchingProblem(
        vertex_affinity=np.ones((200, 16, 16)),
        edge_affinity=np.ones((200, 32, 32)),
        edges_s=np.tile(ring(16), (200, 1, 1)),
        edges_t=np.tile(ring(16), (200, 1, 1)),
    )
    draws = np.random.default_rng(0)
    order = np.stack([draws.permutation(16) for _ in range(200)])
    linear = GraphMatching(second_order=False)
    scipy = GraphMatching(second_order=False, backend="numpy")
    assert (scipy(constant).matching == np.arange(16)).all()  # the trap
    wrong = linear(replace(constant, order=order)).matching != np.arange(16)
    assert 2 * wrong.sum(axis=1).mean() == pytest.approx(2 * 15, abs=0.5)
    # a ring has 32 symmetries, all of the same value: the identity may be met by chance only
    found = SOLVER(replace(constant, order=order)).matching
    assert (found == np.arange(16)).all(axis=1).mean() < 0.05


def ring(nodes: int) -> np.ndarray:
    ahead = np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes], axis=1)
    return np.concatenate([ahead, ahead[:, ::-1]])


def test_the_order_changes_no_answer_that_is_unique():
    problem = noisy_views(6, gumbel=0.3)
    draws = np.random.default_rng(1)
    order = np.stack([draws.permutation(16) for _ in range(6)])
    plain, shuffled = SOLVER(problem), SOLVER(replace(problem, order=order))
    assert (plain.matching == shuffled.matching).all()
    np.testing.assert_allclose(plain.objective, shuffled.objective)


def test_holes_are_matched_to_themselves_and_the_rest_as_if_they_were_not_there():
    problem = noisy_views(4, nodes=10, neighbours=9, gumbel=0.3)
    valid = np.ones((4, 10), dtype=bool)
    valid[0, [0, 3]] = valid[1, 9] = valid[2] = False
    draws = np.random.default_rng(1)
    order = np.stack([draws.permutation(10) for _ in range(4)])
    result = SOLVER(replace(problem, valid=valid, order=order))
    assert is_permutation(result.matching)
    assert (result.matching[~valid] == np.nonzero(~valid)[1]).all()
    for g in range(4):
        nodes = np.flatnonzero(valid[g])
        if not len(nodes):
            assert result.objective[g] == 0
            continue
        place = np.full(10, -1)
        place[nodes] = np.arange(len(nodes))
        inside = [valid[g][e[g]].all(axis=1) for e in (problem.edges_s, problem.edges_t)]
        alone = SOLVER(
            MatchingProblem(
                vertex_affinity=problem.vertex_affinity[g][np.ix_(nodes, nodes)][None],
                edge_affinity=problem.edge_affinity[g][np.ix_(*inside)][None],
                edges_s=place[problem.edges_s[g][inside[0]]][None],
                edges_t=place[problem.edges_t[g][inside[1]]][None],
            )
        )
        assert result.objective[g] == pytest.approx(alone.objective[0])
        assert (result.matching[g][nodes] == nodes[alone.matching[0]]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_affinities_that_are_not_finite_fall_back_to_the_assignment_and_are_counted(bad):
    problem = noisy_views(4, sigma=0.3)
    vertex, edge = problem.vertex_affinity.copy(), problem.edge_affinity.copy()
    edge[1, 3:40] = bad
    vertex[2, 5, 6] = bad
    vertex[3], edge[3] = bad, bad
    result = SOLVER(replace(problem, vertex_affinity=vertex, edge_affinity=edge))
    assert is_permutation(result.matching)
    assert result.status.tolist() == [Status.CONVERGED, Status.FAILED, Status.FAILED, Status.FAILED]
    assert np.isfinite(result.objective[0])
    assert np.isnan(result.objective[1:]).all()
    assert (result.matching[:3] == np.arange(16)).all()  # these views are matched by vertices alone


def test_scaling_all_affinities_changes_no_matching():
    problem = noisy_views(6, gumbel=0.5)
    for scale in (1e-8, 1e8):
        scaled = replace(
            problem, vertex_affinity=problem.vertex_affinity * scale, edge_affinity=problem.edge_affinity * scale
        )
        assert (SOLVER(scaled).matching == SOLVER(problem).matching).all()


def test_graphs_may_have_different_numbers_of_edges_or_none():
    problem = noisy_views(3, gumbel=0.2)
    fewer = replace(problem, edges_t=problem.edges_t[:, ::2], edge_affinity=problem.edge_affinity[:, :, ::2])
    assert is_permutation(SOLVER(fewer).matching)
    none = replace(problem, edges_t=problem.edges_t[:, :0], edge_affinity=problem.edge_affinity[:, :, :0])
    assert (SOLVER(none).matching == assign(problem.vertex_affinity)).all()


def test_more_starts_never_lose():
    problem = noisy_views(8, gumbel=1.0)
    values = [GraphMatching(starts=starts)(problem).objective for starts in (1, 2, 5, 12)]
    for fewer, more in zip(values, values[1:], strict=False):
        assert (more >= fewer - 1e-9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_weight": -1.0}, "edge_weight must be finite and >= 0"),
        ({"edge_weight": float("nan")}, "edge_weight must be finite and >= 0"),
        ({"steps": 0}, "steps and starts must be >= 1"),
        ({"starts": 0}, "steps and starts must be >= 1"),
    ],
)
def test_settings_out_of_range_raise(change, message):
    with pytest.raises(ValueError, match=message):
        GraphMatching(**change)


def test_problems_that_do_not_fit_raise():
    problem = noisy_views(2, nodes=6, neighbours=2)
    twice = problem.edges_s.copy()
    twice[0, 0] = twice[0, 1]
    loop = problem.edges_t.copy()
    loop[1, 0, 1] = loop[1, 0, 0]
    outside = problem.edges_s.copy()
    outside[0, 0, 1] = 6
    with pytest.raises(ValueError, match="edges_s must not hold an edge twice"):
        replace(problem, edges_s=twice)
    with pytest.raises(ValueError, match=r"edges_t must not hold loops"):
        replace(problem, edges_t=loop)
    with pytest.raises(ValueError, match=r"edges_s must name nodes in \[0, 5\]"):
        replace(problem, edges_s=outside)
    with pytest.raises(ValueError, match="order must hold a permutation"):
        replace(problem, order=np.zeros((2, 6), dtype=np.int64))


def test_the_assignment_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="affinities must be finite"):
        assign(np.full((1, 3, 3), np.nan))
