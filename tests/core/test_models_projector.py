import pytest
import torch
from torch import nn

from medalign_core.models.projector import GraphConvolutions, new_projector
from medalign_core.ops.graphs import adjacency, knn_edges, propagate


def graphs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    nodes = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(seed))
    return nodes, adjacency(knn_edges(nodes, 3), 8)


def convolutions(layers: int = 2) -> GraphConvolutions:
    torch.manual_seed(0)
    return GraphConvolutions(6, width=5, layers=layers)


def test_two_layers_are_the_formula_with_a_relu_between_and_none_at_the_end():
    nodes, neighbours = graphs()
    model = convolutions()
    first, second = (weight.weight.T for weight in model.weights)
    hidden = torch.relu(propagate(nodes, neighbours) @ first)
    expected = propagate(hidden, neighbours) @ second
    torch.testing.assert_close(model(nodes, neighbours), expected)
    assert (expected < 0).any()


def test_identity_weights_keep_constant_features():
    _, neighbours = graphs()
    model = GraphConvolutions(6, width=6, layers=2)
    for weight in model.weights:
        nn.init.eye_(weight.weight)
    constant = torch.rand(6).expand(2, 8, 6)
    torch.testing.assert_close(model(constant, neighbours), constant)


def test_relabelled_nodes_give_relabelled_results():
    nodes, neighbours = graphs()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moved = convolutions()(nodes[:, order], neighbours[:, order][:, :, order])
    torch.testing.assert_close(moved, convolutions()(nodes, neighbours)[:, order])


def test_a_graph_conv_weighs_a_node_apart_from_the_mean_of_its_neighbours():
    nodes, neighbours = graphs()
    torch.manual_seed(0)
    model = GraphConvolutions(6, width=5, layers=2, kind="graph_conv")
    hidden = nodes
    for number, (own, others) in enumerate(zip(model.weights, model.neighbour_weights, strict=True)):
        means = torch.stack(
            [torch.stack([hidden[g][neighbours[g, i]].mean(dim=0) for i in range(8)]) for g in range(2)]
        )
        hidden = hidden @ own.weight.T + means @ others.weight.T
        hidden = torch.relu(hidden) if number == 0 else hidden
    torch.testing.assert_close(model(nodes, neighbours), hidden)
    isolated = model(nodes, torch.zeros_like(neighbours))
    torch.testing.assert_close(isolated, torch.relu(nodes @ model.weights[0].weight.T) @ model.weights[1].weight.T)


def test_dropout_is_a_function_of_its_draws_and_keeps_the_mean():
    nodes, neighbours = graphs()
    model = convolutions()
    outcomes = [model(nodes, neighbours, dropout=0.5, draws=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert (outcomes[0] == outcomes[1]).all()
    assert (outcomes[0] != outcomes[2]).any()
    draws = torch.Generator().manual_seed(0)
    mean = torch.stack([model(nodes, neighbours, dropout=0.5, draws=draws) for _ in range(4000)]).mean(dim=0)
    torch.testing.assert_close(mean, model(nodes, neighbours), atol=0.05, rtol=0)


def test_half_precision_weights_average_their_neighbours_in_single_precision():
    nodes, neighbours = graphs()
    model = convolutions().to(torch.bfloat16)
    result = model(nodes, neighbours)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, convolutions()(nodes, neighbours), atol=0.05, rtol=0.05)


def test_graph_convolutions_have_the_right_gradient():
    nodes, neighbours = graphs()
    model = convolutions().double()
    assert torch.autograd.gradcheck(lambda x: model(x, neighbours), (nodes[:, :, :].double().requires_grad_(),))


def test_a_projector_of_depth_one_is_one_linear_map():
    projector = new_projector(12, 4)
    assert [type(layer) for layer in projector] == [nn.Linear]
    assert projector(torch.ones(3, 12)).shape == (3, 4)


@pytest.mark.parametrize(
    ("depth", "norm", "kinds"),
    [
        (1, "batch", [nn.Linear, nn.BatchNorm1d]),
        (2, "none", [nn.Linear, nn.ReLU, nn.Linear]),
        (3, "batch", [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]),
    ],
)
def test_deeper_projectors_have_relus_and_norms_between(depth, norm, kinds):
    projector = new_projector(12, 4, depth=depth, norm=norm)
    assert [type(layer) for layer in projector] == kinds
    assert projector(torch.ones(3, 12)).shape == (3, 4)
