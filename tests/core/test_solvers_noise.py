import pytest
import torch
from scipy import stats

from medalign_core.solvers.affinities import Affinities, draw_perturbations
from medalign_core.solvers.noise import Noise


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gumbel_draws_have_the_gumbel_distribution_of_their_scale():
    drawn = Noise(scale=0.5).draw((20_000,), draws())
    assert stats.kstest(drawn, stats.gumbel_r(scale=0.5).cdf).pvalue > 0.01


@pytest.mark.parametrize("degree", [1, 5, 16])
def test_as_many_sum_of_gamma_draws_as_the_degree_are_one_gumbel_draw(degree):
    noise = Noise(distribution="sum_of_gamma", scale=2.0, degree=degree, terms=200)
    together = noise.draw((5_000, degree), draws()).sum(axis=1)
    assert stats.kstest(together, stats.gumbel_r(scale=2.0).cdf).pvalue > 0.01


def test_draws_are_those_of_the_generators_state_and_move_it_on():
    for distribution in ("gumbel", "sum_of_gamma"):
        noise, stream = Noise(distribution=distribution), draws()
        first, second = noise.draw((3, 4), stream), noise.draw((3, 4), stream)
        assert (noise.draw((3, 4), draws()) == first).all()
        assert (first != second).all()
        assert (noise.draw((3, 4), draws(1)) != first).all()


def test_a_scale_of_zero_draws_zeros():
    assert (Noise(scale=0.0).draw((7,), draws()) == 0).all()


def affinities(graphs: int) -> Affinities:
    nowhere = torch.zeros(graphs, 6, 2, dtype=torch.long)
    return Affinities(
        vertex=torch.zeros(graphs, 4, 4), edge=torch.zeros(graphs, 6, 5), edges_s=nowhere, edges_t=nowhere[:, :5]
    )


def test_every_graph_draws_from_its_own_stream_whatever_the_others():
    many = draw_perturbations(affinities(3), Noise(), [draws(g) for g in range(3)], samples=2)
    assert many.samples == 2
    assert many.vertex.shape == (2, 3, 4, 4)
    assert many.edge.shape == (2, 3, 6, 5)
    alone = draw_perturbations(affinities(1), Noise(), [draws(1)], samples=2)
    assert (many.vertex[:, 1] == alone.vertex[:, 0]).all()
    assert (many.edge[:, 1] == alone.edge[:, 0]).all()
    assert (many.vertex[0] != many.vertex[1]).all()
    assert draw_perturbations(affinities(1), Noise(), [draws(1)], edges=False).edge is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": -1.0}, "scale must be finite and >= 0, got -1.0"),
        ({"scale": float("inf")}, "scale must be finite"),
        ({"degree": 0}, "degree and terms must be >= 1, got 0 and 10"),
        ({"terms": 0}, "degree and terms must be >= 1, got 1 and 0"),
    ],
)
def test_noise_that_cannot_be_drawn_raises(change, message):
    with pytest.raises(ValueError, match=message):
        Noise(**change)


def test_draws_for_fewer_graphs_than_there_are_raise():
    with pytest.raises(ValueError, match="one for each of 3 graphs, got 1, 2"):
        draw_perturbations(affinities(3), Noise(), [draws(), draws(1)])
