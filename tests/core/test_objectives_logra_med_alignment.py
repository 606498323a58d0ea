from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medalign_core.objectives.logra_med.alignment import align, compare
from medalign_core.objectives.logra_med.graphs import MaxGraphConvolutions
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.edges import edge_affinity
from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.types import DrawKey

KEY = DrawKey(3, 1, 4)
NAMES = ("image", "answer", "extended")
PLAIN = LoGraMed(neighbours=3, message_passing="none", noise_scale=0.0)
ROWS = 8


def node_sets(count: int = 3, *, rows: int = ROWS, size: int = 12, sigma: float = 2.0, seed: int = 0):
    """One latent per sample, seen `count` times under noise of its own."""
    draws = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, size, generator=draws, dtype=torch.float64)
    names = (*NAMES, "fourth")[:count]
    return {name: latent + sigma * torch.randn(latent.shape, generator=draws, dtype=torch.float64) for name in names}


def new_network(settings: LoGraMed = PLAIN, size: int = 12) -> MaxGraphConvolutions:
    torch.manual_seed(0)
    return MaxGraphConvolutions(size, width=size, layers=2, messages=settings.messages).double()


def run(
    nodes: dict[str, Tensor],
    settings: LoGraMed = PLAIN,
    *,
    valid: Tensor | None = None,
    key: DrawKey = KEY,
    network: MaxGraphConvolutions | None = None,
    training: bool = True,
):
    rows = len(next(iter(nodes.values())))
    valid = torch.ones(rows, dtype=torch.bool) if valid is None else valid
    return align(nodes, valid, key, settings=settings, network=network, training=training)


def leaves(nodes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().clone().requires_grad_() for name, x in nodes.items()}


def slopes(nodes: dict[str, Tensor], settings: LoGraMed = PLAIN, *, scale: float = 1.0, **more) -> dict[str, Tensor]:
    own = leaves(nodes)
    loss, _ = run(own, settings, **more)
    (loss * scale).backward()
    return {name: x.grad / scale for name, x in own.items()}


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


@pytest.mark.parametrize("scale", [0.1, 3.0, 65536.0])
def test_the_gradient_is_linear_in_whatever_the_loss_is_multiplied_by(scale):
    settings = LoGraMed(neighbours=3, strength=8.0)
    plain, scaled = (slopes(node_sets(), settings, network=new_network(), scale=c) for c in (1.0, scale))
    for name in plain:
        assert (plain[name] != 0).any()
        torch.testing.assert_close(scaled[name], plain[name], rtol=1e-12, atol=1e-15)


def test_two_micro_batches_accumulate_to_the_mean_of_their_gradients():
    settings = LoGraMed(neighbours=3)
    network, parts = new_network(), [node_sets(seed=n) for n in (1, 2)]
    keys = [DrawKey(0, 0, n) for n in (0, 1)]
    network.zero_grad()
    together = sum(run(x, settings, network=network, key=k)[0] for x, k in zip(parts, keys, strict=True)) / 2
    together.backward()
    expected = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    for x, k in zip(parts, keys, strict=True):
        (run(x, settings, network=network, key=k)[0] / 2).backward()
    for p, other in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, other)


def test_the_published_estimator_is_not_linear():
    settings = LoGraMed(neighbours=3, estimator="compat")
    plain, scaled = (slopes(node_sets(), settings, network=new_network(), scale=c) for c in (1.0, 65536.0))
    assert sum(x.abs().sum() for x in scaled.values()) < 1e-3 * sum(x.abs().sum() for x in plain.values())


def test_saturated_both_estimators_point_the_same_way_and_the_published_one_is_longer_by_the_number_of_pairs():
    base = LoGraMed(neighbours=3, strength=1e5)
    mean, published = (
        slopes(node_sets(), replace(base, estimator=e), network=new_network()) for e in ("homogeneous", "compat")
    )
    for name in mean:
        torch.testing.assert_close(published[name], 6 * mean[name])


def test_the_loss_has_the_right_gradient_down_to_the_nodes_noise_and_all():
    nodes = node_sets(rows=6, size=5)
    settings = LoGraMed(neighbours=2, noise_scale=0.3)
    network = new_network(size=5)

    def loss(*sets: Tensor) -> Tensor:
        return run(dict(zip(nodes, sets, strict=True)), settings, network=network)[0]

    assert torch.autograd.gradcheck(loss, tuple(leaves(nodes).values()))
    assert loss(*nodes.values()) != 0


def test_the_barycenter_passes_gradients_on_to_all_graphs():
    """A graph that is itself in no pair moves all the same, as a part of what the others are matched with."""
    nodes = leaves(node_sets(sigma=4.0))
    loss, _ = run(nodes, replace(PLAIN, centring=True))
    loss.backward()
    assert all((x.grad != 0).any() for x in nodes.values())


@pytest.mark.parametrize(
    "change",
    [
        {"edges": "own"},
        {"messages": "from_neighbours"},
        {"target": "pairwise"},
        {"target": "leave_one_out"},
        {"centring": True},
        {"threshold": None},
        {"threshold": 0.2},
        {"second_order": False},
        {"edge_weight": 1.0},
        {"noise_scale": 0.5},
        {"share_vertex_noise": True, "noise_scale": 0.5},
        {"graph_dropout": 0.5},
        {"samples": 4, "noise_scale": 0.5},
        {"estimator": "compat"},
        {"strength": 2.0},
    ],
)
def test_every_switch_runs_and_changes_the_gradient(change):
    base = LoGraMed(neighbours=3)
    nodes = node_sets(sigma=2.5)
    plain = slopes(nodes, base, network=new_network(base))
    changed = slopes(nodes, replace(base, **change), network=new_network(replace(base, **change)))
    assert all(x.isfinite().all() for x in changed.values())
    assert any((changed[name] != plain[name]).any() for name in nodes)


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


@pytest.mark.parametrize("target", ["barycenter", "pairwise"])
def test_rows_that_are_left_out_change_nothing_whatever_they_hold(target):
    valid = torch.tensor([True, False, True, True, True, False, True, True])
    settings = LoGraMed(neighbours=3, target=target, centring=True)
    outcomes = []
    for fill in (0.0, float("nan"), 50.0):
        nodes = {name: torch.where(valid[:, None], x, fill) for name, x in node_sets().items()}
        loss, stats = run(nodes, settings, network=new_network(), valid=valid)
        stats.pop("solver_seconds")
        outcomes.append((loss, stats, slopes(nodes, settings, network=new_network(), valid=valid)))
    for loss, stats, slope in outcomes[1:]:
        assert loss == outcomes[0][0]
        assert stats == outcomes[0][1]
        for name in NAMES:
            assert (slope[name] == outcomes[0][2][name]).all()
            assert (slope[name][~valid] == 0).all()


def test_rows_left_out_are_as_good_as_absent():
    valid = torch.tensor([True, True, False, True, True, False, True, True])
    nodes = node_sets()
    fewer = {name: x[valid] for name, x in nodes.items()}
    loss, stats = run(nodes, PLAIN, valid=valid)
    other, expected = run(fewer, PLAIN)
    torch.testing.assert_close(loss, other)
    for name in ("hamming", "matching_accuracy", "unmatched_rate"):
        torch.testing.assert_close(stats[name], expected[name])


@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("estimator", ["homogeneous", "compat"])
def test_fewer_than_two_samples_give_a_loss_of_zero_with_gradients_of_zero_for_all_weights(present, estimator):
    network, nodes = new_network(), leaves(node_sets())
    valid = torch.arange(ROWS) < present
    loss, stats = run(nodes, LoGraMed(estimator=estimator), network=network, valid=valid)
    loss.backward()
    assert loss == 0
    assert all(value.isfinite() for value in stats.values())
    assert all(p.grad is not None and (p.grad == 0).all() for p in network.parameters())
    assert all((x.grad == 0).all() for x in nodes.values())


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


def test_nodes_without_length_and_collapsed_nodes_give_finite_gradients_and_no_credit():
    for nodes in (
        {name: torch.zeros(ROWS, 12, dtype=torch.float64) for name in NAMES},
        {name: torch.ones(ROWS, 12, dtype=torch.float64) for name in NAMES},
    ):
        found = [run(leaves(nodes), key=DrawKey(0, 0, n))[1]["matching_accuracy"] for n in range(20)]
        assert torch.stack(found).mean() < 0.3  # chance is 1 / 8
        assert all(x.isfinite().all() for x in slopes(nodes).values())


def test_half_precision_nodes_are_compared_in_single_precision():
    nodes = {name: x.to(torch.bfloat16).requires_grad_() for name, x in node_sets().items()}
    network = MaxGraphConvolutions(12, width=12, layers=2).to(torch.bfloat16)
    loss, _ = run(nodes, LoGraMed(), network=network)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all() for x in nodes.values())


@pytest.mark.parametrize("target", ["barycenter", "pairwise"])
def test_free_nodes_trained_by_the_alignment_alone_come_to_match(target):
    nodes = {
        name: torch.randn(16, 24, generator=torch.Generator().manual_seed(n)).requires_grad_()
        for n, name in enumerate(NAMES)
    }
    torch.manual_seed(0)
    network = MaxGraphConvolutions(24, width=24, layers=2)
    settings = LoGraMed(target=target)
    optimizer = torch.optim.Adam([*nodes.values(), *network.parameters()], lr=0.02)
    _, before = run(nodes, settings, network=network, training=False)
    for step in range(150):
        optimizer.zero_grad()
        run(nodes, settings, network=network, key=DrawKey(0, step, 0))[0].backward()
        optimizer.step()
    _, after = run(nodes, settings, network=network, training=False)
    assert before["matching_accuracy"] < 0.8
    assert after["matching_accuracy"] == 1
    assert after["hamming"] == 0
