import torch

from medalign_core.models.multimodal.pooling import pool


def test_the_mean_is_over_counted_tokens():
    states = torch.arange(12.0).reshape(2, 3, 2)
    counted = torch.tensor([[True, True, False], [False, True, False]])
    assert pool(states, counted).tolist() == [[1.0, 2.0], [8.0, 9.0]]


def test_a_row_without_tokens_is_zero_and_pulls_on_nothing():
    states = torch.randn(1, 3, 2, requires_grad=True)
    pooled = pool(states, torch.zeros(1, 3, dtype=torch.bool))
    pooled.sum().backward()
    assert (pooled == 0).all()
    assert (states.grad == 0).all()


def test_what_is_not_counted_may_be_anything_and_gets_no_gradient():
    states = torch.randn(2, 3, 2)
    states[:, 2] = torch.nan
    states.requires_grad_()
    counted = torch.tensor([[True, True, False]]).expand(2, 3)
    pooled = pool(states, counted)
    pooled.sum().backward()
    torch.testing.assert_close(pooled, states[:, :2].mean(dim=1))
    torch.testing.assert_close(states.grad[:, :2], torch.full((2, 2, 2), 0.5))
    assert (states.grad[:, 2] == 0).all()


def test_the_gradient_is_that_of_differences():
    states = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    counted = torch.tensor([[True, True, False], [True, False, True]])
    assert torch.autograd.gradcheck(lambda s: pool(s, counted), states)


def test_half_precision_is_pooled_in_single_precision():
    states = torch.randn(1, 300, 2).to(torch.bfloat16)
    pooled = pool(states, torch.ones(1, 300, dtype=torch.bool))
    torch.testing.assert_close(pooled, states.float().mean(dim=1))
