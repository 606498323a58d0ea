from dataclasses import replace

import numpy as np
import pytest
import torch
from logra_cases import KEY, NAMES, PLAIN, ROWS, leaves, new_network, node_sets, run, slopes

from medalign_core.objectives.logra_med.alignment import compare
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.edges import edge_affinity
from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.types import DrawKey


@pytest.mark.parametrize("target", ["barycenter", "leave_one_out", "pairwise"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_any_number_of_graphs_is_matched_with_as_many_problems_as_the_method_says(count, target, monkeypatch):
    solved = []
    solve = GraphMatching.__call__

    def counting(self, problem, **more):
        solved.append(len(problem.vertex_affinity))
        return solve(self, problem, **more)

    monkeypatch.setattr(GraphMatching, "__call__", counting)
    settings = replace(PLAIN, target=target, strength=1e-3)  # too small for a target to be known without a solve
    _, stats = run(node_sets(count, sigma=6.0), settings)
    pairs = count * (count - 1) if target == "pairwise" else 2 * count
    assert solved[0] == pairs  # 2K to barycenters, K (K - 1) pairwise, and at most as many for the target
    assert sum(solved[1:]) == round(stats["target_solves"].item() * pairs)
    labels = [name for name in stats if name.startswith("hamming_")]
    assert len(labels) == (pairs // 2)
    mean = torch.stack([stats[name] for name in labels]).mean()
    torch.testing.assert_close(stats["hamming"], mean)


def test_identical_graphs_match_without_loss_or_gradient():
    nodes = leaves({name: node_sets()["image"] for name in NAMES})
    loss, stats = run(nodes)
    loss.backward()
    assert loss == 0
    assert stats["hamming"] == 0
    assert stats["matching_accuracy"] == 1
    assert all((x.grad == 0).all() for x in nodes.values())


def test_a_permuted_graph_with_edges_of_its_own_is_recovered():
    nodes = node_sets(2)["image"]
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    settings = replace(PLAIN, edges="own", target="pairwise")
    _, stats = run({"image": nodes, "answer": nodes[order]}, settings)
    fixed = (order == torch.arange(ROWS)).double().mean()
    assert stats["matching_accuracy"].item() == pytest.approx(fixed.item())
    assert stats["unmatched_rate"] == 0
    assert stats["hamming"].item() == pytest.approx(2 * (1 - fixed.item()))


def test_where_no_affinity_reaches_the_threshold_nobody_is_matched_and_the_hamming_loss_is_one():
    _, stats = run(node_sets(), replace(PLAIN, threshold=1.5))
    assert stats["hamming"] == 1
    assert stats["unmatched_rate"] == 1
    assert stats["matching_accuracy"] == 0


def test_without_a_threshold_everyone_is_matched():
    _, stats = run(node_sets(sigma=6.0), replace(PLAIN, threshold=None, target="pairwise", edges="own"))
    assert stats["unmatched_rate"] == 0
    assert 0 < stats["hamming"] <= 2


def test_the_affinities_are_the_cosines_less_the_threshold_over_the_first_graphs_edges():
    nodes = node_sets(2)
    settings = replace(PLAIN, target="pairwise", threshold=0.3)
    affinities = compare(nodes, torch.ones(ROWS, dtype=torch.bool), KEY, settings=settings, network=None, training=True)
    s, t = nodes.values()
    torch.testing.assert_close(affinities.vertex, torch.stack([cosine_table(s, t), cosine_table(t, s)]) - 0.3)
    assert (affinities.edges_s == affinities.edges_t).all()
    first = affinities.edges_s[:1]
    expected = edge_affinity(s[None], t[None], first, first) - 0.3
    torch.testing.assert_close(affinities.edge_table()[:1], expected)
    own = replace(settings, edges="own")
    apart = compare(nodes, torch.ones(ROWS, dtype=torch.bool), KEY, settings=own, network=None, training=True)
    assert (apart.edges_t[0] == apart.edges_s[1]).all()
    assert (apart.edges_t[0] != apart.edges_s[0]).any()


def test_the_loss_is_the_difference_of_scores_over_lambda_and_moves_the_target_by_lambda_over_the_nodes():
    """By hand: two samples, one pair of graphs, vertices only."""
    s = torch.eye(2, dtype=torch.float64)
    t = torch.tensor([[0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)  # each is nearer to the other's
    base = replace(PLAIN, graphs=("image", "answer"), target="pairwise", second_order=False, threshold=None)
    # swapping gains 2 * 0.2 over the identity and costs 4 * lambda / n once the target moves: n = 2, so from 0.2 on
    for strength, expected in ((0.19, 0.0), (0.21, 0.4 / 0.21), (80.0, 0.4 / 80)):
        loss, stats = run({"image": s, "answer": t}, replace(base, strength=strength))
        assert stats["hamming"] == 2
        assert loss.item() == pytest.approx(expected)


def test_permuting_the_samples_jointly_changes_nothing():
    torch.manual_seed(0)
    nodes, order = node_sets(), torch.randperm(ROWS, generator=torch.Generator().manual_seed(5))
    permuted = {name: x[order] for name, x in nodes.items()}
    network = new_network()
    thorough = GraphMatching(starts=60)  # both must find the best matching, not a good one each
    settings = LoGraMed(neighbours=3, noise_scale=0.0, graph_dropout=0.0, solver=thorough)
    (loss, stats), (other_loss, other) = (run(x, settings, network=network) for x in (nodes, permuted))
    torch.testing.assert_close(other_loss, loss)
    assert all(other[name] == stats[name] for name in stats if name != "solver_seconds")
    one, two = (slopes(x, settings, network=network) for x in (nodes, permuted))
    for name in nodes:
        torch.testing.assert_close(two[name], one[name][order])


def test_draws_are_keyed_and_those_of_a_pair_do_not_depend_on_the_other_graphs():
    settings = LoGraMed(neighbours=3, noise_scale=1.0, graph_dropout=0.3, target="pairwise")
    network, nodes = new_network(), node_sets()
    first, stats = run(nodes, settings, network=network)
    torch.rand(5)
    np.random.default_rng().random()
    again, _ = run(nodes, settings, network=network)
    assert again == first
    assert all(run(nodes, settings, network=network, key=k)[0] != first for k in (DrawKey(3, 1, 5), DrawKey(3, 2, 4)))
    pair = {name: nodes[name] for name in ("image", "extended")}
    _, alone = run(pair, settings, network=network)
    for name in ("hamming_image_extended", "matching_accuracy_image_extended"):
        assert alone[name] == stats[name]


def test_in_evaluation_there_is_no_noise_and_no_dropout():
    settings = LoGraMed(neighbours=3, noise_scale=1.0, graph_dropout=0.5)
    network = new_network()
    quiet = replace(settings, noise_scale=0.0, graph_dropout=0.0)
    expected, _ = run(node_sets(), quiet, network=network)
    for key in (KEY, DrawKey(9, 9, 9)):
        torch.testing.assert_close(run(node_sets(), settings, network=network, key=key, training=False)[0], expected)


def test_a_micro_batch_of_one_sample_has_nothing_to_align():
    nodes = leaves(node_sets(rows=1))
    loss, _ = run(nodes, LoGraMed(), network=new_network())
    loss.backward()
    assert loss == 0


def test_small_micro_batches_have_fewer_neighbours():
    for rows in (2, 4, 6):
        loss, stats = run(node_sets(rows=rows), LoGraMed(neighbours=5), network=new_network())
        assert loss.isfinite()
        assert 0 <= stats["hamming"] <= 2
