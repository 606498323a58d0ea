import itertools

import numpy as np
import pytest

from medalign_core.metrics.graph_distance import StructuredGraph, graph_distance, interpolate


def draw_graph(seed: int, count: int | None = None) -> StructuredGraph:
    """A random graph of 1 to 4 nodes whose features and edges repeat now and then."""
    draws = np.random.default_rng(seed)
    count = int(draws.integers(1, 5)) if count is None else count
    return StructuredGraph(
        nodes=draws.normal(size=(count, 2)).round(),
        edges=draws.normal(size=(count, count)) * (draws.random((count, count)) < 0.5),
        mass=draws.choice([0.5, 1.0], size=count),
    )


def relabelled(graph: StructuredGraph, seed: int = 0) -> tuple[StructuredGraph, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(graph.nodes))
    return StructuredGraph(
        nodes=graph.nodes[order], edges=graph.edges[np.ix_(order, order)], mass=graph.mass[order]
    ), order


def distance(s: StructuredGraph, t: StructuredGraph) -> float:
    return graph_distance(s, t, deletion=0.7, edge_weight=0.4).distance


def reference(s: StructuredGraph, t: StructuredGraph, deletion: float, edge_weight: float) -> float:
    """By definition: both graphs padded with nothing to one size, all permutations, loops."""
    size, width = len(s.nodes) + len(t.nodes), s.nodes.shape[1]
    padded = []
    for g in (s, t):
        nodes, edges, mass = np.zeros((size, width)), np.zeros((size, size)), np.zeros(size)
        n = len(g.nodes)
        nodes[:n], edges[:n, :n], mass[:n] = g.nodes, g.edges, g.mass
        padded.append((nodes, edges, mass))
    (x, a, m), (y, b, k) = padded
    best = np.inf
    for p in itertools.permutations(range(size)):
        cost = sum(np.linalg.norm(x[i] - y[q]) + deletion * abs(m[i] - k[q]) for i, q in enumerate(p))
        best = min(best, cost + edge_weight * np.abs(a - b[np.ix_(p, p)]).sum())
    return float(best)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_least_cost_over_all_matchings_of_padded_graphs(seed):
    s, t = draw_graph(seed, count=3), draw_graph(seed + 100, count=1 + seed % 3)
    assert distance(s, t) == pytest.approx(reference(s, t, 0.7, 0.4))


def test_two_single_nodes_are_moved_or_replaced_whichever_is_cheaper():
    def node(x: float, mass: float = 1.0) -> StructuredGraph:
        return StructuredGraph(nodes=np.array([[x]]), edges=np.zeros((1, 1)), mass=np.array([mass]))

    assert graph_distance(node(3.0), node(5.0), deletion=0.1).distance == pytest.approx(2.0)
    assert graph_distance(node(3.0), node(3.0, mass=0.25), deletion=2.0).distance == pytest.approx(1.5)
    nothing = StructuredGraph(nodes=np.zeros((0, 1)), edges=np.zeros((0, 0)), mass=np.zeros(0))
    assert graph_distance(node(3.0), nothing, deletion=2.0).distance == pytest.approx(5.0)
    assert graph_distance(nothing, nothing).distance == 0


def test_it_is_never_negative_and_symmetric():
    for seed in range(40):
        s, t = draw_graph(seed), draw_graph(seed + 1000)
        assert distance(s, t) >= 0
        assert distance(s, t) == pytest.approx(distance(t, s), abs=1e-12)


def test_it_is_zero_for_isomorphic_graphs_whose_isomorphism_it_finds():
    for seed in range(20):
        graph = draw_graph(seed, count=5)
        other, _ = relabelled(graph, seed)
        found = graph_distance(graph, other)
        assert found.distance == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(other.nodes[found.matching], graph.nodes)
        np.testing.assert_allclose(other.edges[np.ix_(found.matching, found.matching)], graph.edges)


def test_it_is_positive_for_graphs_that_differ_in_one_feature_one_edge_one_mass_or_one_node():
    graph = draw_graph(3, count=4)
    other, _ = relabelled(graph)
    feature, edge, mass = other.nodes.copy(), other.edges.copy(), other.mass.copy()
    feature[2, 0] += 0.1
    edge[0, 3] += 0.1
    mass[1] += 0.1
    changed = [
        StructuredGraph(nodes=feature, edges=other.edges, mass=other.mass),
        StructuredGraph(nodes=other.nodes, edges=edge, mass=other.mass),
        StructuredGraph(nodes=other.nodes, edges=other.edges, mass=mass),
        StructuredGraph(nodes=other.nodes[:3], edges=other.edges[:3, :3], mass=other.mass[:3]),
    ]
    expected = [0.1, 0.04, 0.07]
    for one, most in zip(changed, [*expected, np.inf], strict=True):
        assert 1e-6 < distance(graph, one) <= most + 1e-12


def test_the_triangle_inequality_holds_on_random_triples():
    gaps = []
    for seed in range(80):
        s, t, u = (draw_graph(seed + offset) for offset in (0, 1000, 2000))
        gaps.append(distance(s, t) + distance(t, u) - distance(s, u))
    assert min(gaps) >= -1e-12
    # between them lies a graph for which it is tight
    s, u = draw_graph(1, count=3), draw_graph(2, count=3)
    t = interpolate(s, u, graph_distance(s, u, deletion=0.7, edge_weight=0.4).matching)
    assert distance(s, t) + distance(t, u) == pytest.approx(distance(s, u))


@pytest.mark.parametrize("seed", range(10))
def test_the_midpoint_along_an_optimal_matching_is_half_way_to_both_ends(seed):
    s, t = draw_graph(seed, count=3), draw_graph(seed + 500, count=2 + seed % 2)
    found = graph_distance(s, t, deletion=0.7, edge_weight=0.4)
    assert found.distance > 0
    middle = interpolate(s, t, found.matching)
    assert distance(s, middle) == pytest.approx(found.distance / 2)
    assert distance(middle, t) == pytest.approx(found.distance / 2)


def test_the_path_has_constant_speed_also_where_nodes_fade_and_grow():
    s = StructuredGraph(nodes=np.array([[5.0, 0.0], [0.0, 1.0]]), edges=np.array([[0, 1.0], [0, 0]]), mass=np.ones(2))
    t = StructuredGraph(nodes=np.array([[-5.0, 0.0], [0.0, 2.0]]), edges=np.array([[0, 0], [3.0, 0]]), mass=np.ones(2))
    found = graph_distance(s, t, deletion=0.01)
    assert found.distance > 0
    forced = interpolate(s, t, np.array([-1, 1]))
    assert len(forced.nodes) == 3  # one fades, one stays, one grows
    path = [interpolate(s, t, found.matching, share=share) for share in (0.2, 0.5, 0.9)]
    for (a, one), (b, other) in itertools.combinations(zip((0.2, 0.5, 0.9), path, strict=True), 2):
        assert graph_distance(one, other, deletion=0.01).distance == pytest.approx((b - a) * found.distance)


def test_a_matching_that_is_not_optimal_gives_a_longer_way():
    graph = draw_graph(4, count=3)
    other, order = relabelled(graph)
    detour = interpolate(graph, other, np.full(3, -1))
    assert distance(graph, detour) + distance(detour, other) > 0.1
    assert len(detour.nodes) == 6
    direct = interpolate(graph, other, order.argsort())
    assert distance(graph, direct) == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_compared_raises():
    graph = draw_graph(0, count=3)
    with pytest.raises(ValueError, match=r"edges and mass must be \(3, 3\) and \(3,\), got \(2, 2\)"):
        StructuredGraph(nodes=graph.nodes, edges=np.zeros((2, 2)), mass=graph.mass)
    with pytest.raises(ValueError, match="masses finite and > 0"):
        StructuredGraph(nodes=graph.nodes, edges=graph.edges, mass=np.zeros(3))
    with pytest.raises(ValueError, match="deletion and edge_weight must be > 0, got 0.0 and 1.0"):
        graph_distance(graph, graph, deletion=0.0)
    with pytest.raises(ValueError, match="one size, got 2 and 5"):
        graph_distance(graph, StructuredGraph(nodes=np.zeros((1, 5)), edges=np.zeros((1, 1)), mass=np.ones(1)))
    large = StructuredGraph(nodes=np.zeros((8, 2)), edges=np.zeros((8, 8)), mass=np.ones(8))
    with pytest.raises(ValueError, match="graphs of 8 and 8 nodes have 1441729 partial matchings"):
        graph_distance(large, large)
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), got 1.0"):
        interpolate(graph, graph, np.arange(3), share=1.0)
    for wrong in ([0, 0, 1], [0, 1, 3], [0, 1]):
        with pytest.raises(ValueError, match="matching must name a different node of t, or -1, for each of 3"):
            interpolate(graph, graph, np.array(wrong))
