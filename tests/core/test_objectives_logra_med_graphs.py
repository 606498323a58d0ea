import itertools

import pytest
import torch
from torch import Tensor

from medalign_core.objectives.logra_med.graphs import (
    MaxGraphConvolutions,
    arrange_views,
    draw_orders,
    max_messages,
    nearest_edges,
    pair_up,
    with_targets,
)
from medalign_core.types import DrawKey

KEY = DrawKey(3, 1, 4)
NAMES = ("image", "answer", "extended")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everyone(rows: int) -> Tensor:
    return torch.ones(rows, dtype=torch.bool)


def edges_of(nodes: Tensor, neighbours: int = 3, valid: Tensor | None = None) -> Tensor:
    names = tuple(f"set {number}" for number in range(len(nodes)))
    valid = everyone(nodes.shape[1]) if valid is None else valid
    return nearest_edges(nodes, neighbours, valid=valid, names=names, key=KEY)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_target_pairs_each_graph_in_both_directions(count):
    names = tuple("abcd"[:count])
    for target, pairs in (("barycenter", 2 * count), ("leave_one_out", 2 * count), ("pairwise", count * (count - 1))):
        pairing = pair_up(names, target)
        assert len(pairing.pairs) == len(pairing.labels) == len(set(pairing.pairs)) == pairs
        assert {(t, s) for s, t in pairing.pairs} == set(pairing.pairs)
        assert pairing.sets[:count] == names
        assert len(with_targets(draw(count, 5, 4), target)) == len(pairing.sets)


def test_targets_are_the_means_their_names_say_and_pass_gradients_to_their_parts():
    nodes = draw(3, 5, 4).requires_grad_()
    sets = with_targets(nodes, "barycenter")
    torch.testing.assert_close(sets[3], (nodes[0] + nodes[1] + nodes[2]) / 3)
    (slope,) = torch.autograd.grad(sets[3].sum(), nodes)
    torch.testing.assert_close(slope, torch.full_like(slope, 1 / 3))
    others = with_targets(nodes, "leave_one_out")
    torch.testing.assert_close(others[4], (nodes[0] + nodes[2]) / 2)
    assert pair_up(NAMES, "leave_one_out").pairs[2:4] == ((1, 4), (4, 1))
    assert pair_up(NAMES, "pairwise").labels == tuple(
        f"{s}_{t}" for s, t in itertools.combinations(NAMES, 2) for _ in range(2)
    )


def test_a_node_has_as_many_neighbours_as_there_are_others_at_most():
    for size, expected in ((6, 3), (4, 3), (3, 2), (2, 1), (1, 0)):
        edges = edges_of(draw(2, size, 4))
        assert edges.shape == (2, size * expected, 2)
        assert (edges[..., 0] != edges[..., 1]).all()


def test_shared_edges_are_those_of_the_first_graph_and_every_view_is_there_once():
    pairing = pair_up(NAMES, "barycenter")
    shared, own = arrange_views(pairing, "shared"), arrange_views(pairing, "own")
    for views, same in ((shared, True), (own, False)):
        graphs = list(zip(views.nodes, views.edges, strict=True))
        assert len(set(graphs)) == len(graphs)
        for (s, t), first, second in zip(pairing.pairs, views.first, views.second, strict=True):
            assert graphs[first] == (s, s)
            assert graphs[second] == (t, s if same else t)
    assert len(shared.nodes) == 10  # of 12: the barycenter under its own edges stands in three pairs
    assert len(own.nodes) == 4


def convolutions_by_loops(network: MaxGraphConvolutions, nodes: Tensor, edges: Tensor, kept: Tensor, messages: str):
    for root, relation in zip(network.root, network.relation, strict=True):
        rows = []
        for j in range(len(nodes)):
            heard = [
                nodes[a if messages == "to_neighbours" else b]
                for (a, b), there in zip(edges.tolist(), kept.tolist(), strict=True)
                if there and (b if messages == "to_neighbours" else a) == j
            ]
            largest = torch.stack(heard).max(dim=0).values if heard else torch.zeros_like(nodes[j])
            rows.append(torch.relu(root.weight @ nodes[j] + relation.weight @ largest + relation.bias))
        nodes = torch.stack(rows)
    return nodes


@pytest.mark.parametrize("messages", ["to_neighbours", "from_neighbours"])
def test_the_network_equals_loops_over_nodes_and_edges(messages):
    torch.manual_seed(0)
    network = MaxGraphConvolutions(4, width=6, layers=2, messages=messages).double()
    sets, valid = draw(2, 7, 4), torch.tensor([True] * 5 + [False, True])
    edges = edges_of(sets, valid=valid)[[0, 0, 1]]
    kept = torch.rand(edges.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.8
    hidden = network(sets, [0, 1, 1], edges, kept)
    for number, of in enumerate([0, 1, 1]):
        expected = convolutions_by_loops(network, sets[of], edges[number], kept[number], messages)
        torch.testing.assert_close(hidden[number], expected)


def test_messages_to_neighbours_leave_the_node_that_nobody_counts_among_his_in_silence():
    line = torch.tensor([0.0, 1.0, 2.1, 100.0], dtype=torch.float64)[None, :, None]  # the last is nobody's nearest
    edges = edges_of(line, neighbours=1)
    kept = torch.ones(edges.shape[:2], dtype=torch.bool)
    heard = max_messages(line, edges[..., 0], edges[..., 1], kept)
    assert heard[0, :, 0].tolist() == [1.0, 2.1, 100.0, 0.0]
    listened = max_messages(line, edges[..., 1], edges[..., 0], kept)
    assert listened[0, :, 0].tolist() == [1.0, 0.0, 1.0, 2.1]


def test_a_node_without_messages_hears_zero_even_where_the_others_are_negative():
    nodes = -1.0 - draw(1, 4, 3).abs()
    edges = edges_of(nodes, neighbours=1)
    none = torch.zeros(1, 4, dtype=torch.bool)
    assert (max_messages(nodes, edges[..., 0], edges[..., 1], none) == 0).all()
    heard = max_messages(nodes, edges[..., 1], edges[..., 0], ~none)
    assert (heard < 0).all()


def test_the_network_has_the_right_gradient():
    torch.manual_seed(0)
    network = MaxGraphConvolutions(3, width=4, layers=2).double()
    sets = draw(2, 5, 3).requires_grad_()
    edges = edges_of(sets.detach(), neighbours=2)
    kept = torch.ones(edges.shape[:2], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: network(x, [0, 1], edges, kept), (sets,))
    assert torch.autograd.gradgradcheck(lambda x: max_messages(x, edges[..., 0], edges[..., 1], kept).square(), (sets,))


def test_tied_maxima_share_the_gradient():
    nodes = torch.ones(1, 3, 2, dtype=torch.float64, requires_grad=True)
    edges = torch.tensor([[[0, 2], [1, 2]]])
    heard = max_messages(nodes, edges[..., 0], edges[..., 1], torch.ones(1, 2, dtype=torch.bool))
    assert heard[0, 2].tolist() == [1.0, 1.0]
    (slope,) = torch.autograd.grad(heard.sum(), nodes)
    assert slope[0].tolist() == [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]


def test_the_network_is_equivariant_to_a_permutation_of_the_samples():
    torch.manual_seed(0)
    network = MaxGraphConvolutions(4, width=4, layers=2).double()
    sets, order = draw(1, 8, 4), torch.randperm(8, generator=torch.Generator().manual_seed(2))
    hidden = []
    for x in (sets, sets[:, order]):
        edges = edges_of(x)
        hidden.append(network(x, [0], edges, torch.ones(edges.shape[:2], dtype=torch.bool)))
    torch.testing.assert_close(hidden[1], hidden[0][:, order])


def test_a_half_precision_network_returns_single_precision_nodes():
    network = MaxGraphConvolutions(4, width=4, layers=2).to(torch.bfloat16)
    sets = draw(1, 6, 4).float().requires_grad_()
    edges = edges_of(sets.detach())
    hidden = network(sets, [0], edges, torch.ones(edges.shape[:2], dtype=torch.bool))
    hidden.sum().backward()
    assert hidden.dtype == sets.grad.dtype == torch.float32
    assert network.relation[0].weight.grad.dtype == torch.bfloat16


def test_an_order_depends_on_its_name_and_key_alone():
    alone = draw_orders(KEY, ("answer",), 9)
    torch.rand(3)
    together = draw_orders(KEY, ("image", "answer", "extended"), 9)
    assert (together[1] == alone[0]).all()
    assert (together[0] != alone[0]).any()
    assert (draw_orders(DrawKey(3, 1, 5), ("answer",), 9) != alone).any()
