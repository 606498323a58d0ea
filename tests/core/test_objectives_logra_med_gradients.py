from dataclasses import replace

import pytest
import torch
from logra_cases import NAMES, PLAIN, ROWS, leaves, new_network, node_sets, run, slopes
from torch import Tensor

from medalign_core.objectives.logra_med.graphs import MaxGraphConvolutions
from medalign_core.objectives.logra_med.settings import LoGraMed
from medalign_core.types import DrawKey


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
    for step in range(100):
        optimizer.zero_grad()
        run(nodes, settings, network=network, key=DrawKey(0, step, 0))[0].backward()
        optimizer.step()
    _, after = run(nodes, settings, network=network, training=False)
    assert before["matching_accuracy"] < 0.8
    assert after["matching_accuracy"] == 1
    assert after["hamming"] == 0
