import numpy as np
import pytest
import torch

from medalign_core.metrics.collapse import effective_rank, embedding_std


def everyone(rows: int) -> torch.Tensor:
    return torch.ones(rows, dtype=torch.bool)


def test_one_direction_is_zero_whatever_the_lengths():
    lengths = torch.rand(50, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    assert embedding_std(lengths * torch.ones(8), everyone(50)) == pytest.approx(0.0, abs=1e-3)


def test_directions_spread_over_the_sphere_are_one_in_any_dimension():
    draws = torch.Generator().manual_seed(0)
    for size in (2, 16, 128):
        points = torch.randn(4000, size, generator=draws)
        assert embedding_std(points, everyone(4000)) == pytest.approx(1.0, abs=0.02)


def test_two_opposite_unit_vectors_are_one_in_one_dimension_and_less_in_more():
    assert embedding_std(torch.tensor([[2.0], [-3.0]]), everyone(2)) == pytest.approx(1.0)
    along_an_axis = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    assert embedding_std(along_an_axis, everyone(2)) == pytest.approx(0.5)  # sqrt(4) * mean(1, 0, 0, 0)


def test_holes_do_not_count():
    points = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([True, False, True, True, False, True])
    assert embedding_std(points, valid) == embedding_std(points[valid], everyone(4))
    assert embedding_std(points, torch.zeros(6, dtype=torch.bool)) == 0


def test_the_effective_rank_counts_equal_directions_and_is_one_on_a_line():
    valid = torch.ones(6, dtype=torch.bool)
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    for scale in (1.0, 1e-6, 1e6):
        assert effective_rank(scale * axes, valid).item() == pytest.approx(3, rel=1e-5)
    line = torch.arange(6.0)[:, None] * torch.ones(6, 4)
    assert effective_rank(line, valid).item() == pytest.approx(1, rel=1e-5)
    assert effective_rank(torch.ones(6, 4), valid) == 1
    assert effective_rank(axes, torch.zeros(6, dtype=torch.bool)) == 1


@pytest.mark.parametrize("width", [3, 20])
def test_the_effective_rank_is_that_of_the_valid_rows_covariance_in_either_shape(width):
    rows = torch.randn(8, width, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([True] * 6 + [False] * 2)
    values = np.linalg.eigvalsh(np.cov(rows[:6].numpy(), rowvar=False))
    rows[6:] = 50.0
    assert effective_rank(rows, valid).item() == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)
