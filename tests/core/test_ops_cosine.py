import numpy as np
import torch
from core_problems import cosine_reference

from medalign_core.ops.cosine import at_least_float32, cosine_table, normalize


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosines_equal_the_textbook_formula_and_stay_in_range():
    s, t = draw(7, 5), draw(4, 5, seed=1)
    table = cosine_table(s, t)
    np.testing.assert_allclose(table.numpy(), cosine_reference(s.numpy(), t.numpy()), atol=1e-12)
    assert table.abs().max() <= 1


def test_cosines_do_not_depend_on_positive_scales():
    s, t = draw(7, 5), draw(4, 5, seed=1)
    scale = torch.rand(7, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 100 + 0.01
    torch.testing.assert_close(cosine_table(s * scale, t), cosine_table(s, t))


def test_a_vector_without_length_has_cosine_zero_and_gradient_zero():
    s = draw(3, 5)
    s[1] = 0
    s.requires_grad_()
    table = cosine_table(s, draw(4, 5, seed=1))
    table.sum().backward()
    assert (table[1] == 0).all()
    assert (s.grad[1] == 0).all()
    assert s.grad.isfinite().all()
    assert (s.grad[0] != 0).all()


def test_vectors_not_longer_than_their_floor_become_zero():
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    floor = torch.tensor([[4.9], [0.5001]])
    units = normalize(vectors, floor=floor)
    torch.testing.assert_close(units, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_normalisation_has_the_right_gradient():
    leaf = draw(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(normalize, leaf)
    assert torch.autograd.gradgradcheck(normalize, leaf)


def test_half_precision_is_widened_and_double_is_kept():
    assert at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_float32(torch.ones(2, dtype=torch.float16)).dtype == torch.float32
    assert at_least_float32(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
