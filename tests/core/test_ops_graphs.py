import numpy as np
import pytest
import torch
from core_problems import knn_reference

from medalign_core.ops.graphs import adjacency, edge_mask, knn_edges, propagate


def points(graphs: int, nodes: int = 16, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(graphs, nodes, size, generator=torch.Generator().manual_seed(seed))


def test_knn_has_exactly_n_times_k_edges_without_loops_or_repeats():
    edges = knn_edges(points(4), 5)
    assert edges.shape == (4, 80, 2)
    assert (edges[..., 0] != edges[..., 1]).all()
    for graph in edges.tolist():
        assert len({tuple(edge) for edge in graph}) == 80


def test_batched_knn_equals_a_double_loop_and_graph_by_graph():
    nodes = points(5, nodes=11)
    edges = knn_edges(nodes, 3)
    for g in range(5):
        assert (edges[g].numpy() == knn_reference(nodes[g].double().numpy(), 3)).all()
        assert (edges[g] == knn_edges(nodes[g : g + 1], 3)[0]).all()


def test_equal_distances_are_ordered_by_node():
    edges = knn_edges(torch.zeros(2, 6, 4), 3).reshape(2, 6, 3, 2)
    for i in range(6):
        assert edges[0, i, :, 1].tolist() == [j for j in range(6) if j != i][:3]
    assert (edges[0] == edges[1]).all()


def test_an_order_decides_between_equal_distances_and_nothing_else():
    order = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(g)) for g in range(2)])
    edges = knn_edges(torch.zeros(2, 6, 4), 3, order=order).reshape(2, 6, 3, 2)
    for g in range(2):
        for i in range(6):
            assert (edges[g, i, :, 0] == i).all()
            assert edges[g, i, :, 1].tolist() == [j for j in order[g].tolist() if j != i][:3]
    nodes, valid = points(2, nodes=6), torch.rand(2, 6, generator=torch.Generator().manual_seed(3)) < 0.8
    plain, ordered = knn_edges(nodes, 3, valid=valid), knn_edges(nodes, 3, valid=valid, order=order)
    assert (plain[edge_mask(plain, valid)] == ordered[edge_mask(ordered, valid)]).all()


@pytest.mark.parametrize("neighbours", [0, 6, 7])
def test_more_neighbours_than_other_nodes_raise(neighbours):
    with pytest.raises(ValueError, match=r"neighbours must be in \[1, nodes - 1 = 5\]"):
        knn_edges(points(1, nodes=6), neighbours)


def test_no_loop_even_when_the_points_are_not_finite():
    edges = knn_edges(torch.full((1, 6, 4), torch.nan), 3)
    assert (edges[..., 0] != edges[..., 1]).all()
    assert len({tuple(edge) for edge in edges[0].tolist()}) == 18


def test_holes_are_nobodys_neighbour_while_valid_nodes_are_left():
    nodes, valid = points(1, nodes=10), torch.ones(1, 10, dtype=torch.bool)
    valid[0, [2, 7]] = False
    edges = knn_edges(nodes, 4, valid=valid)
    kept = edges[0][edge_mask(edges, valid)[0]].numpy()
    real = np.flatnonzero(valid[0].numpy())
    alone = knn_reference(nodes[0].double().numpy()[real], 4)
    assert (kept == real[alone]).all()


def test_with_too_few_valid_nodes_the_edges_to_holes_are_masked():
    valid = torch.tensor([[True, True, True, False, False, False]])
    edges = knn_edges(points(1, nodes=6), 4, valid=valid)
    assert edge_mask(edges, valid).sum() == 3 * 2
    assert adjacency(edges, 6, mask=edge_mask(edges, valid))[0, :3, :3].sum() == 6


def test_propagation_keeps_constant_features_constant_on_a_knn_graph():
    neighbours = adjacency(knn_edges(points(3), 5), 16)
    constant = torch.randn(8).expand(3, 16, 8)
    torch.testing.assert_close(propagate(constant, neighbours), constant)


def test_propagation_is_permutation_equivariant():
    nodes = points(2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    plain = propagate(nodes, adjacency(knn_edges(nodes, 5), 16))
    permuted = propagate(nodes[:, order], adjacency(knn_edges(nodes[:, order], 5), 16))
    torch.testing.assert_close(permuted, plain[:, order])


def test_dense_batched_propagation_equals_a_sparse_sum_over_edges():
    nodes = points(2, nodes=9).double()
    edges = knn_edges(nodes, 4)[:, :-7]  # unequal degrees
    dense = propagate(nodes, adjacency(edges, 9))
    for g in range(2):
        degree = 1.0 + torch.bincount(edges[g, :, 0], minlength=9)
        expected = nodes[g] / degree[:, None]
        for i, j in edges[g].tolist():
            expected[i] += nodes[g, j] / (degree[i] * degree[j]).sqrt()
        torch.testing.assert_close(dense[g], expected)


def test_isolated_and_duplicate_nodes_stay_finite_and_keep_their_features():
    nodes = torch.ones(1, 5, 3)
    isolated = torch.zeros(1, 5, 5, dtype=torch.bool)
    torch.testing.assert_close(propagate(nodes, isolated), nodes)
    assert propagate(nodes, adjacency(knn_edges(nodes, 2), 5)).isfinite().all()


def test_propagation_has_the_right_gradient():
    nodes = points(1, nodes=6, size=3).double().requires_grad_()
    neighbours = adjacency(knn_edges(nodes, 2), 6)
    assert torch.autograd.gradcheck(lambda x: propagate(x, neighbours), (nodes,))
