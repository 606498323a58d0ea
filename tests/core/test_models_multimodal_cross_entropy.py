import pytest
import torch
from torch import nn
from torch.nn import functional

from medalign_core.models.multimodal.cross_entropy import chunked_cross_entropy


def problem(count: int = 11, dtype: torch.dtype = torch.float64):
    draws = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = nn.Linear(6, 17, bias=False, dtype=dtype)
    states = torch.randn(count, 6, generator=draws, dtype=dtype, requires_grad=True)
    return head, states, torch.randint(0, 17, (count,), generator=draws)


@pytest.mark.parametrize("chunks", [1, 2, 3, 20])
def test_chunks_give_the_plain_loss_and_its_gradients(chunks):
    head, states, targets = problem()
    plain = functional.cross_entropy(head(states), targets, reduction="sum")
    expected = torch.autograd.grad(plain, [states, head.weight])
    loss = chunked_cross_entropy(head, states, targets, chunks=chunks)
    torch.testing.assert_close(loss, plain)
    for gradient, wanted in zip(torch.autograd.grad(loss, [states, head.weight]), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_the_gradient_is_that_of_differences():
    head, states, targets = problem(4)
    assert torch.autograd.gradcheck(lambda s: chunked_cross_entropy(head, s, targets, chunks=3), states)


def test_no_more_than_a_chunk_of_logits_is_held_for_the_backward_pass():
    head, states, targets = problem(16)
    kept = []

    def note(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        chunked_cross_entropy(head, states, targets, chunks=4)
    assert max(kept) < 4 * 17
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        chunked_cross_entropy(head, states, targets, chunks=1)
    assert max(kept) >= 16 * 17


def test_the_head_is_called_as_often_whatever_the_number_of_targets():
    for count in (0, 1, 11):
        head, states, targets = problem(count)
        calls = []
        head.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        chunked_cross_entropy(head, states, targets, chunks=4)
        assert len(calls) == 4


def test_no_targets_give_zero_and_zero_gradients():
    head, states, targets = problem(0)
    loss = chunked_cross_entropy(head, states, targets, chunks=2)
    loss.backward()
    assert loss == 0
    assert (head.weight.grad == 0).all()


def test_half_precision_sums_in_single_precision():
    head, states, targets = problem(11, torch.bfloat16)
    assert chunked_cross_entropy(head, states, targets, chunks=2).dtype == torch.float32
