"""The two paths of the search, partial matchings, the factor form, threads, the anytime mode and the peers."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
from core_problems import noisy_views
from hypothesis import given, settings
from hypothesis import strategies as st

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.graph_matching import GraphMatching, Status
from medalign_core.solvers.matching.moves import fuse
from medalign_core.solvers.matching.objective import Objective
from medalign_core.solvers.matching_problem import MatchingProblem, score

COMPILED, NUMPY = GraphMatching(backend="compiled"), GraphMatching(backend="numpy")
BOTH = pytest.mark.parametrize("solver", [COMPILED, NUMPY], ids=["compiled", "numpy"])


def thresholded(problem: MatchingProblem, threshold: float) -> MatchingProblem:
    return replace(
        problem,
        vertex_affinity=problem.vertex_affinity - threshold,
        edge_affinity=problem.edge_affinity - threshold,
    )


def in_factors(
    problem: MatchingProblem, size: int = 6, offset: float = 0.25
) -> tuple[MatchingProblem, MatchingProblem]:
    draws = np.random.default_rng(0)
    s, t = (draws.normal(size=(*edges.shape[:2], size)) for edges in (problem.edges_s, problem.edges_t))
    factors = replace(problem, edge_affinity=None, edge_features_s=s, edge_features_t=t, edge_offset=offset)
    return factors, replace(problem, edge_affinity=factors.dense_edge_affinity())


def is_partial_matching(matching: np.ndarray) -> bool:
    return all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in matching)


def best_partial(problem: MatchingProblem, g: int) -> float:
    """The largest F of all injections of a part of the nodes."""
    size = problem.size
    every = [m for m in itertools.product(range(-1, size), repeat=size) if is_partial_matching(np.array([m]))]
    many = MatchingProblem(
        **{
            name: np.repeat(getattr(problem, name)[g][None], len(every), axis=0)
            for name in ("vertex_affinity", "edge_affinity", "edges_s", "edges_t")
        }
    )
    return score(many, np.array(every)).max()


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("nodes", "graphs"), [(6, 8), (16, 8), (40, 2)])
def test_both_paths_find_the_same_matchings(partial, nodes, graphs):
    problem = thresholded(noisy_views(graphs, nodes=nodes, gumbel=0.6), 0.5)
    results = [replace(solver, partial=partial)(problem) for solver in (COMPILED, NUMPY)]
    assert [result.backend for result in results] == ["compiled", "numpy"]
    assert (results[0].matching == results[1].matching).all()
    assert (results[0].iterations == results[1].iterations).all()
    np.testing.assert_allclose(results[0].objective, results[1].objective)


@BOTH
@pytest.mark.parametrize(("nodes", "neighbours", "threshold"), [(5, 2, 0.5), (5, 4, 1.2), (4, 3, 0.5), (3, 2, 1.5)])
def test_small_partial_problems_are_solved_as_by_brute_force(solver, nodes, neighbours, threshold):
    problem = thresholded(noisy_views(8, nodes=nodes, neighbours=neighbours, gumbel=1.0, seed=nodes), threshold)
    result = replace(solver, partial=True)(problem)
    assert is_partial_matching(result.matching)
    np.testing.assert_allclose(result.objective, [best_partial(problem, g) for g in range(8)])


@BOTH
def test_a_partial_matching_scores_what_it_says_and_no_less_than_the_partial_assignment(solver):
    problem = thresholded(noisy_views(6, gumbel=1.0), 1.3)
    result = replace(solver, partial=True)(problem)
    assert is_partial_matching(result.matching)
    assert (result.matching < 0).any()
    np.testing.assert_allclose(score(problem, result.matching), result.objective)
    assert (result.objective >= score(problem, assign(problem.vertex_affinity, partial=True)) - 1e-9).all()


@BOTH
def test_by_vertices_alone_a_partial_matching_is_the_partial_assignment(solver):
    problem = thresholded(noisy_views(6, gumbel=1.0), 0.8)
    found = replace(solver, partial=True, second_order=False)(problem).matching
    assert (found == assign(problem.vertex_affinity, partial=True)).all()


@BOTH
def test_affinities_that_are_all_negative_match_nothing(solver):
    problem = noisy_views(3)
    negative = replace(
        problem,
        vertex_affinity=-np.abs(problem.vertex_affinity) - 0.1,
        edge_affinity=-np.abs(problem.edge_affinity) - 0.1,
    )
    result = replace(solver, partial=True)(negative)
    assert (result.matching == -1).all()
    assert (result.objective == 0).all()


@pytest.mark.parametrize("partial", [False, True])
def test_a_relabelled_copy_of_a_graph_is_matched_to_it(partial):
    problem = noisy_views(4, sigma=0.0)
    label = np.random.default_rng(3).permutation(16)
    back = np.argsort(label)
    relabelled = replace(problem, vertex_affinity=problem.vertex_affinity[:, :, back], edges_t=label[problem.edges_t])
    assert (replace(COMPILED, partial=partial)(relabelled).matching == label).all()


@BOTH
@pytest.mark.parametrize("partial", [False, True])
def test_the_factor_form_is_solved_as_the_array_it_stands_for(solver, partial):
    factors, dense = in_factors(noisy_views(4, gumbel=0.5))
    one, other = (replace(solver, partial=partial)(p) for p in (factors, dense))
    assert (one.matching == other.matching).all()
    np.testing.assert_allclose(one.objective, other.objective)
    np.testing.assert_allclose(score(factors, one.matching), one.objective)


@BOTH
def test_problems_with_holes_in_the_partial_mode_leave_only_valid_nodes_unmatched(solver):
    problem = thresholded(noisy_views(4, nodes=12, gumbel=0.5), 1.0)
    valid = np.random.default_rng(0).random((4, 12)) < 0.8
    valid[3] = False
    result = replace(solver, partial=True)(replace(problem, valid=valid))
    assert (result.matching[~valid] == np.nonzero(~valid)[1]).all()
    assert (result.matching[valid] < 0).any()
    assert result.objective[3] == 0
    np.testing.assert_allclose(score(replace(problem, valid=valid), result.matching), result.objective)


@BOTH
def test_threads_change_nothing(solver):
    problem = noisy_views(9, gumbel=1.0)
    one, three = solver(problem), replace(solver, threads=3)(problem)
    assert (one.matching == three.matching).all()
    assert (one.objective == three.objective).all()


@BOTH
def test_a_time_budget_never_loses_and_its_trace_rises(solver):
    problem, solver = noisy_views(3, nodes=24, gumbel=1.0), replace(solver, starts=2)
    plain, longer = solver(problem), replace(solver, time_budget=0.1)(problem)
    assert (longer.objective >= plain.objective).all()
    assert (longer.objective > plain.objective).any()
    for g in range(3):
        seconds, value = longer.trace[g].T
        assert value[0] == pytest.approx(plain.objective[g])
        assert value[-1] == pytest.approx(longer.objective[g])
        assert (np.diff(seconds) > 0).all()
        assert (np.diff(value) > 0).all()


@BOTH
def test_a_start_is_kept_or_improved(solver):
    problem = noisy_views(4, gumbel=1.0)
    best = replace(COMPILED, starts=200)(problem)
    again = replace(solver, starts=1)(problem, start=best.matching)
    assert (again.objective >= best.objective - 1e-9).all()
    with pytest.raises(ValueError, match="start must not match two nodes to the same one"):
        solver(problem, start=np.zeros((4, 16), dtype=np.int64))
    with pytest.raises(ValueError, match="start must match every node"):
        solver(problem, start=np.full((4, 16), -1))


def test_fusing_takes_each_component_that_gains():
    problem = noisy_views(1, nodes=12, neighbours=3, gumbel=1.0)
    nodes = np.arange(12)
    objective = Objective.of(problem, 0, (nodes, nodes), edge_weight=1.0)
    draws = np.random.default_rng(0)
    for _ in range(20):
        p, q = draws.permutation(12), draws.permutation(12)
        q[draws.random(12) < 0.3] = -1
        fused = fuse(objective, p, q, 1e-9)
        assert is_partial_matching(fused[None])
        assert ((fused == p) | (fused == q)).all()
        assert objective.value(fused) >= objective.value(p) - 1e-9


@pytest.mark.parametrize("name", ["pylibmgm", "pygmtools"])
def test_a_peer_answers_the_same_call_and_does_not_beat_the_search(name):
    pytest.importorskip(name)
    problem = noisy_views(2, nodes=9, neighbours=3, sigma=1.0)
    peer = GraphMatching(backend=name)(problem)
    assert peer.backend == name
    assert (np.sort(peer.matching, axis=1) == np.arange(9)).all()
    np.testing.assert_allclose(score(problem, peer.matching), peer.objective)
    assert (COMPILED(problem).objective >= peer.objective - 1e-6).all()


def test_a_peer_that_is_missing_says_what_to_install(monkeypatch):
    for name in ("pylibmgm", "pygmtools"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=f"pip install {name}"):
            GraphMatching(backend=name)(noisy_views(1, nodes=4, neighbours=2))
    with pytest.raises(ValueError, match="has no time budget"):
        GraphMatching(backend="pylibmgm", time_budget=1.0)(noisy_views(1, nodes=4, neighbours=2))


@given(
    seed=st.integers(0, 10_000),
    nodes=st.integers(1, 9),
    values=st.lists(
        st.sampled_from([0.0, 1.0, -1.0, 1e30, -1e30, 1e-30, np.nan, np.inf, -np.inf]), min_size=1, max_size=3
    ),
    partial=st.booleans(),
    density=st.floats(0, 1),
)
@settings(deadline=None, derandomize=True, max_examples=120)
def test_degenerate_problems_are_solved_or_marked_and_never_crash(seed, nodes, values, partial, density):
    draws = np.random.default_rng(seed)
    pairs = np.array([(i, j) for i in range(nodes) for j in range(nodes) if i != j], dtype=np.int64).reshape(-1, 2)
    edges = [pairs[draws.random(len(pairs)) < density][None] for _ in range(2)]
    problem = MatchingProblem(
        vertex_affinity=draws.choice(values, size=(1, nodes, nodes)),
        edge_affinity=draws.choice(values, size=(1, edges[0].shape[1], edges[1].shape[1])),
        edges_s=edges[0],
        edges_t=edges[1],
        valid=draws.random((1, nodes)) < 0.9,
    )
    finite = np.isfinite(problem.vertex_affinity).all() and np.isfinite(problem.edge_affinity).all()
    for solver in (COMPILED, NUMPY):
        result = replace(solver, partial=partial, starts=4)(problem)
        assert (result.status[0] == Status.FAILED) == (not finite)
        assert np.isfinite(result.objective[0]) == finite
        assert is_partial_matching(result.matching)
        assert partial or (result.matching >= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_budget": -1.0}, "time_budget must be finite seconds >= 0"),
        ({"threads": 0}, "threads must be >= 1"),
    ],
)
def test_settings_out_of_range_raise(change, message):
    with pytest.raises(ValueError, match=message):
        GraphMatching(**change)


def test_affinities_in_both_forms_or_in_none_raise():
    problem = noisy_views(1, nodes=6, neighbours=2)
    factors, _ = in_factors(problem)
    with pytest.raises(ValueError, match="give either edge_affinity or both"):
        replace(factors, edge_affinity=problem.edge_affinity)
    with pytest.raises(ValueError, match="give either edge_affinity or both"):
        replace(problem, edge_affinity=None)
