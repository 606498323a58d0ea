import numpy as np
import pytest
import torch
from core_problems import cosine_reference

from medalign_core.ops.cosine import cosine_table
from medalign_core.ops.edges import directions, edge_affinity, edge_directions
from medalign_core.ops.graphs import knn_edges


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_graphs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    s = draw(3, 8, 6, seed=seed)
    t = s + 0.3 * draw(3, 8, 6, seed=seed + 100)
    return s, t, knn_edges(s, 3), knn_edges(t, 3)


def test_edge_affinities_are_the_cosines_of_the_edge_vectors():
    s, t, edges_s, edges_t = two_graphs()
    table = edge_affinity(s, t, edges_s, edges_t)
    for g in range(3):
        vectors = [x[g][e[g, :, 0]] - x[g][e[g, :, 1]] for x, e in ((s, edges_s), (t, edges_t))]
        np.testing.assert_allclose(table[g].numpy(), cosine_reference(*(v.numpy() for v in vectors)), atol=1e-12)
    assert table.abs().max() <= 1


def test_edge_affinities_are_invariant_to_scale_and_to_a_common_shift_and_vertex_ones_only_to_scale():
    s, t, *edges = two_graphs()
    table, vertices = edge_affinity(s, t, *edges), cosine_table(s, t)
    shift = draw(1, 1, 6, seed=5)
    torch.testing.assert_close(edge_affinity(3.7 * s, 0.01 * t, *edges), table)
    torch.testing.assert_close(cosine_table(3.7 * s, 0.01 * t), vertices)
    torch.testing.assert_close(edge_affinity(s + shift, t, *edges), table)
    torch.testing.assert_close(edge_affinity(s, t - 10 * shift, *edges), table)
    assert (cosine_table(s + shift, t) - vertices).abs().max() > 0.1


def test_reversing_both_edges_keeps_their_affinity_and_reversing_one_negates_it():
    s, t, edges_s, edges_t = two_graphs()
    table = edge_affinity(s, t, edges_s, edges_t)
    torch.testing.assert_close(edge_affinity(s, t, edges_s.flip(-1), edges_t.flip(-1)), table)
    torch.testing.assert_close(edge_affinity(s, t, edges_s.flip(-1), edges_t), -table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicate_embeddings_give_edges_of_affinity_zero_and_a_finite_gradient(dtype):
    s = draw(1, 6, 4).to(dtype)
    s[0, 1] = s[0, 0]
    s[0, 2] = s[0, 0] * (1 + torch.finfo(dtype).eps)  # apart by rounding only: no direction either
    s.requires_grad_()
    edges = torch.tensor([[[0, 1], [1, 0], [0, 2], [0, 3], [4, 5]]])
    table = edge_affinity(s, draw(1, 6, 4, seed=1).to(dtype), edges, edges)
    table.sum().backward()
    assert (table[0, :3] == 0).all()
    assert (table[0, 3:] != 0).all()
    assert s.grad.isfinite().all()
    assert s.grad.abs().max() < 100


def test_edge_affinities_have_the_right_gradient():
    s, t, *edges = two_graphs()
    nodes = s[:1, :5].clone().requires_grad_(), t[:1, :5].clone().requires_grad_()
    kept = [knn_edges(x, 2) for x in nodes]
    assert torch.autograd.gradcheck(lambda a, b: edge_affinity(a, b, *kept), nodes)


def test_directions_have_the_right_first_and_second_gradient():
    nodes = draw(5, 4).requires_grad_()
    ends = torch.tensor([[0, 1], [1, 0], [3, 2], [4, 0], [2, 4]])
    assert torch.autograd.gradcheck(lambda x: directions(x, ends), nodes)
    assert torch.autograd.gradgradcheck(lambda x: directions(x, ends), nodes)


def test_directions_are_unit_vectors_whatever_the_graph_they_lie_in():
    s, _, edges, _ = two_graphs()
    found = edge_directions(s, edges)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(found.shape[:2], dtype=s.dtype))
    for g in range(3):
        torch.testing.assert_close(edge_directions(s[g : g + 1], edges[g : g + 1])[0], found[g])
