from dataclasses import replace

import numpy as np
import pytest
import torch

from medalign_core.objectives.lvm_med.loss import (
    Perturbation,
    draw_orders,
    matching_loss,
    matching_problem,
)
from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.edges import edge_affinity
from medalign_core.ops.graphs import edge_mask, knn_edges
from medalign_core.solvers import affinities as affinities_module
from medalign_core.solvers.affinities import Affinities
from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.solvers.implicit import MatchingGradient
from medalign_core.types import DrawKey

KEY = DrawKey(7, 3, 1)
SOLVER = GraphMatching()
GUMBEL = Perturbation(noise="gumbel", scale=1.0)


def views(graphs: int, *, nodes: int = 16, sigma: float = 0.5, seed: int = 0) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    s = torch.randn(graphs, nodes, 32, generator=draws, dtype=torch.float64)
    return [s, s + sigma * torch.randn(s.shape, generator=draws, dtype=torch.float64)]


def affinities_of(
    nodes: list[torch.Tensor], *, valid: torch.Tensor | None = None, key: DrawKey = KEY, neighbours: int = 5
) -> Affinities:
    """Affinities of two views' nodes without message passing or local terms, as the module makes them."""
    if valid is None:
        valid = torch.ones(nodes[0].shape[:2], dtype=torch.bool)
    order = draw_orders(key, *valid.shape)
    edges = [
        knn_edges(nodes[0], neighbours, valid=valid),
        knn_edges(nodes[1], neighbours, valid=valid, order=order),
    ]
    masks = [edge_mask(e, valid) for e in edges]
    vertex, edge = cosine_table(*nodes), edge_affinity(*nodes, *edges)
    return Affinities(
        vertex=torch.where(valid[:, :, None] & valid[:, None, :], vertex, 0.0),
        edge=torch.where(masks[0][:, :, None] & masks[1][:, None, :], edge, 0.0),
        edges_s=edges[0],
        edges_t=edges[1],
        valid=valid,
        order=order,
    )


def loss_of(
    affinities: Affinities,
    *,
    perturbation: Perturbation | None = GUMBEL,
    key: DrawKey = KEY,
    solver: GraphMatching = SOLVER,
    **gradient,
):
    return matching_loss(
        affinities, key, solver=solver, gradient=MatchingGradient(**gradient), perturbation=perturbation
    )


def test_stats_are_those_of_the_solution():
    affinities = affinities_of(views(6))
    _, stats, solution = loss_of(affinities)
    right = solution.matching == np.arange(16)
    assert stats["matching_accuracy"].item() == pytest.approx(right.mean())
    assert stats["hamming"].item() == pytest.approx(2 * (~right).sum(axis=1).mean())
    assert stats["solver_failures"] == 0
    assert all(value.shape == () and not value.requires_grad for value in stats.values())
    assert 0 < stats["matching_accuracy"] < 1


def test_without_noise_the_loss_of_clear_views_is_zero_with_no_gradient():
    nodes = [x.requires_grad_() for x in views(3, sigma=0.3)]
    loss, stats, _ = loss_of(affinities_of(nodes), perturbation=None)
    loss.backward()
    assert loss == 0
    assert stats["matching_accuracy"] == 1
    assert all((x.grad == 0).all() for x in nodes)


def test_without_noise_the_loss_is_never_negative():
    for sigma in (1.0, 3.0):
        loss, _, _ = loss_of(affinities_of(views(8, sigma=sigma)), perturbation=None)
        assert loss >= 0


def test_swapping_the_views_keeps_the_loss_without_noise():
    s, t = views(6, sigma=1.5)
    ahead, back = affinities_of([s, t]), affinities_of([t, s])
    torch.testing.assert_close(ahead.vertex, back.vertex.transpose(1, 2))
    torch.testing.assert_close(ahead.edge, back.edge.transpose(1, 2))
    thorough = GraphMatching(starts=40)  # both directions must find the best matching, not a good one each
    losses = [loss_of(a, perturbation=None, solver=thorough)[0] for a in (ahead, back)]
    assert losses[0] > 0
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("perturbation", [None, GUMBEL, Perturbation(noise="gumbel", scale=0.05)])
def test_a_collapsed_encoder_looks_as_bad_as_chance(perturbation):
    nodes = [torch.ones(60, 16, 32, dtype=torch.float64)] * 2
    _, stats, _ = loss_of(affinities_of(nodes), perturbation=perturbation)
    assert stats["hamming"].item() == pytest.approx(2 * 15, abs=1.5)  # one node in 16 is right by chance
    assert stats["matching_accuracy"] < 0.12


def test_an_encoder_collapsed_to_two_points_is_no_better_than_its_two_groups():
    group = (torch.rand(60, 16, 1, generator=torch.Generator().manual_seed(0)) < 0.25).double()
    nodes = group * torch.ones(32) + (1 - group) * torch.linspace(-1, 1, 32)
    _, stats, _ = loss_of(affinities_of([nodes, nodes]), perturbation=None)
    # within a group of m nodes one is right by chance: 2 groups of 16 nodes
    assert stats["matching_accuracy"].item() == pytest.approx(2 / 16, abs=0.06)


def test_the_same_key_draws_the_same_noise_and_any_other_key_another():
    affinities = affinities_of(views(2))
    first = matching_problem(affinities, KEY, GUMBEL).vertex_affinity
    assert (matching_problem(affinities, KEY, GUMBEL).vertex_affinity == first).all()
    for other in (KEY._replace(seed=8), KEY._replace(step=4), KEY._replace(index=2)):
        assert (matching_problem(affinities, other, GUMBEL).vertex_affinity != first).all()
        assert (draw_orders(other, 2, 16) != draw_orders(KEY, 2, 16)).any()


def test_the_noise_of_a_graph_does_not_depend_on_how_many_follow():
    affinities = affinities_of(views(4))
    part = replace(affinities, **{k: v[:2] for k, v in vars(affinities).items() if isinstance(v, torch.Tensor)})
    whole, few = (matching_problem(a, KEY, GUMBEL) for a in (affinities, part))
    assert (whole.vertex_affinity[:2] == few.vertex_affinity).all()
    assert (whole.edge_affinity[:2] == few.edge_affinity).all()
    assert (draw_orders(KEY, 4, 16)[:2] == draw_orders(KEY, 2, 16)).all()


def test_the_noise_is_gumbel_of_the_given_scale_on_both_tables():
    affinities = affinities_of(views(20))
    problem = matching_problem(affinities, KEY, Perturbation(noise="gumbel", scale=0.5))
    for noisy, clean in (
        (problem.vertex_affinity, affinities.vertex.numpy()),
        (problem.edge_affinity, affinities.edge.numpy()),
    ):
        noise = (noisy - clean) / 0.5
        assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.05)
        assert noise.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.05)
    other = (problem.vertex_affinity - affinities.vertex.numpy())[0]
    assert abs(np.corrcoef(other.ravel(), (problem.vertex_affinity - affinities.vertex.numpy())[1].ravel())[0, 1]) < 0.2


def test_several_samples_average_losses_and_stats_and_the_first_is_the_one_of_a_single_sample():
    affinities = affinities_of(views(3))
    three = Perturbation(noise="gumbel", scale=1.0, samples=3)
    problem, single = matching_problem(affinities, KEY, three), matching_problem(affinities, KEY, GUMBEL)
    assert (problem.vertex_affinity[:3] == single.vertex_affinity).all()
    assert (problem.vertex_affinity[3:6] != single.vertex_affinity).all()
    loss, stats, solution = loss_of(affinities, perturbation=three)
    right = solution.matching == np.arange(16)
    assert right.shape == (9, 16)
    assert stats["matching_accuracy"].item() == pytest.approx(right.mean())
    assert stats["hamming"].item() == pytest.approx(2 * (~right).sum(axis=1).mean())
    assert loss != loss_of(affinities)[0]


def test_as_published_the_loss_is_the_mean_hamming_loss_and_the_mean_divides_lambda():
    leaves = [x.requires_grad_() for x in views(4, sigma=2.0)]
    loss, stats, _ = loss_of(affinities_of(leaves), perturbation=None, estimator="compat", strength=8.0)
    assert loss.item() == pytest.approx(stats["hamming"].item())
    published = torch.autograd.grad(loss, leaves)
    smaller, _, _ = loss_of(affinities_of(leaves), perturbation=None, strength=2.0)
    for one, other in zip(published, torch.autograd.grad(smaller, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_without_edge_noise_the_solver_is_given_factors_unless_their_table_is_small(monkeypatch):
    nodes = views(2)
    affinities = affinities_of(nodes)
    factors = replace(affinities, edge=None, nodes_s=nodes[0], nodes_t=nodes[1])
    assert matching_problem(factors, KEY, None).edge_affinity is not None
    monkeypatch.setattr(affinities_module, "TABLE_ENTRIES", 0)
    for perturbation in (None, Perturbation(noise="margin", scale=0.5), Perturbation(noise="gumbel", scale=0.0)):
        assert matching_problem(factors, KEY, perturbation).edge_affinity is None
        one, other = (loss_of(a, perturbation=perturbation)[0] for a in (affinities, factors))
        torch.testing.assert_close(one, other)
    assert matching_problem(factors, KEY, GUMBEL).edge_affinity is not None
    torch.testing.assert_close(loss_of(factors)[0], loss_of(affinities)[0])


def test_a_margin_lowers_the_true_pairs_only():
    affinities = affinities_of(views(2))
    problem = matching_problem(affinities, KEY, Perturbation(noise="margin", scale=0.7))
    expected = affinities.vertex.numpy() - 0.7 * np.eye(16)
    np.testing.assert_allclose(problem.vertex_affinity, expected)
    assert (problem.edge_affinity == affinities.edge.numpy()).all()


def gradient(nodes: list[torch.Tensor], *, scale: float = 1.0, **changes) -> torch.Tensor:
    leaves = [x.clone().requires_grad_() for x in nodes]
    loss, _, _ = loss_of(affinities_of(leaves), **changes)
    (loss * scale).backward()
    return torch.stack([x.grad for x in leaves]) / scale


@pytest.mark.parametrize("strength", [1.0, 80.0])
def test_gradients_do_not_depend_on_the_loss_scale(strength):
    nodes = views(4)
    plain = gradient(nodes, strength=strength)
    assert plain.abs().max() > 0
    torch.testing.assert_close(gradient(nodes, strength=strength, scale=65536.0), plain, rtol=1e-12, atol=0)


def test_two_micro_batches_of_one_graph_average_to_one_of_two():
    nodes = views(2, sigma=2.0)
    together = gradient(nodes, perturbation=None)
    apart = torch.cat([gradient([x[g : g + 1] for x in nodes], perturbation=None) for g in range(2)], dim=1) / 2
    assert together.abs().max() > 0
    torch.testing.assert_close(apart, together)


def test_more_graphs_do_not_change_the_length_of_the_gradient_by_more_than_their_mean():
    nodes = views(1, sigma=2.0)
    single = gradient(nodes, perturbation=None)
    repeated = gradient([x.repeat(3, 1, 1) for x in nodes], perturbation=None)
    torch.testing.assert_close(repeated.sum(dim=1), single[:, 0], atol=1e-9, rtol=1e-6)


def test_a_step_down_the_gradient_improves_the_clean_matching_of_bad_views():
    nodes = [x.clone().requires_grad_() for x in views(4, sigma=3.0)]
    before = loss_of(affinities_of(nodes), perturbation=None)
    before[0].backward()
    with torch.no_grad():
        stepped = [x - 0.05 * x.grad / x.grad.abs().mean() for x in nodes]
    after = loss_of(affinities_of(stepped), perturbation=None)
    assert after[1]["matching_accuracy"] > before[1]["matching_accuracy"]
    assert after[0] < before[0]


def test_holes_do_not_count_and_do_not_touch_the_others():
    nodes = views(2, nodes=8, sigma=2.0)
    valid = torch.ones(2, 8, dtype=torch.bool)
    valid[0, [1, 6]] = False
    changed = [x.clone() for x in nodes]
    for x in changed:
        x[~valid] = 100.0
    results = []
    for version in (nodes, changed):
        leaves = [x.clone().requires_grad_() for x in version]
        loss, stats, solution = loss_of(affinities_of(leaves, valid=valid, neighbours=3))
        loss.backward()
        results.append((loss, stats, solution.matching, [x.grad for x in leaves]))
    assert results[0][0] == results[1][0]
    assert results[0][1] == results[1][1]
    assert (results[0][2] == results[1][2]).all()
    assert (results[0][2][~valid.numpy()] == [1, 6]).all()
    for one, other in zip(results[0][3], results[1][3], strict=True):
        assert (one[~valid] == 0).all()
        assert (other[~valid] == 0).all()
        torch.testing.assert_close(one[valid], other[valid])
    right = (results[0][2] == np.arange(8)) & valid.numpy()
    assert results[0][1]["matching_accuracy"].item() == pytest.approx(right.sum() / 14)


def test_graphs_with_fewer_than_two_valid_nodes_do_not_count_in_the_mean():
    nodes = views(3, sigma=2.0)
    valid = torch.ones(3, 16, dtype=torch.bool)
    valid[1] = False
    valid[2, 1:] = False
    loss, stats, _ = loss_of(affinities_of(nodes, valid=valid), perturbation=None)
    alone, alone_stats, _ = loss_of(affinities_of([x[:1] for x in nodes]), perturbation=None)
    torch.testing.assert_close(loss, alone)
    assert stats["hamming"] == alone_stats["hamming"]
    assert stats["matching_accuracy"] == alone_stats["matching_accuracy"]


def test_a_micro_batch_of_holes_has_loss_zero_and_still_a_gradient_of_zeros():
    nodes = [x.requires_grad_() for x in views(2)]
    loss, stats, _ = loss_of(affinities_of(nodes, valid=torch.zeros(2, 16, dtype=torch.bool)))
    loss.backward()
    assert loss == 0
    assert all((x.grad == 0).all() for x in nodes)
    assert stats["hamming"] == 0
    assert all(value.isfinite() for value in stats.values())


def test_embeddings_that_are_not_finite_are_counted_and_end_in_a_loss_that_is_not_finite():
    nodes = views(3)
    nodes[0][1, 4] = torch.nan
    loss, stats, solution = loss_of(affinities_of(nodes))
    assert stats["solver_failures"] == 1
    assert loss.isnan()
    assert (np.sort(solution.matching, axis=1) == np.arange(16)).all()


def test_without_second_order_edges_have_no_part_in_the_loss():
    nodes = views(4, sigma=1.0)
    affinities = affinities_of(nodes)
    linear = GraphMatching(second_order=False)
    loss, stats, _ = loss_of(affinities, solver=linear)
    shuffled = replace(affinities, edge=affinities.edge.flip(1))
    other, other_stats, _ = loss_of(shuffled, solver=linear)
    assert loss == other
    assert stats == other_stats
    assert stats["solver_iterations"] == 1
    assert stats["target_solves"] == 0
