"""Running statistics: what one process's batch norm would hold, folded in index order, untouched by a skipped step."""

import copy

import pytest
import torch
from torch import nn

from medalign.training.running_statistics import RunningStatistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Flatten(), nn.Linear(16, 5)).append(
        nn.BatchNorm1d(5)
    )


def inputs(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, 4, 4, generator=draw) * (1 + n) for n in range(count)]


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.named_buffers() if "running" in name}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_they_are_what_a_batch_norm_holds_that_saw_the_micro_batches_in_index_order(order: list[int]) -> None:
    plain, watched = network(), network()
    running = RunningStatistics(watched)
    for batch in inputs(3):
        plain(batch)
    for index in order:  # whoever came first
        watched(inputs(3)[index])
        running.record(index)
    running.combine(3)
    for name, value in buffers(plain).items():
        torch.testing.assert_close(buffers(watched)[name], value, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(running.state()[name], value, rtol=1e-6, atol=1e-7)


def test_a_step_that_was_not_applied_leaves_them_as_they_were() -> None:
    watched = network()
    running = RunningStatistics(watched)
    watched(inputs(1)[0])
    running.record(0)
    running.combine(1)
    before = copy.deepcopy(running.state())
    watched(inputs(2)[1] * float("inf"))
    running.record(0)
    running.discard()
    for name, value in before.items():
        assert torch.equal(running.state()[name], value)
        assert torch.equal(buffers(watched)[name], value)
    watched(inputs(1)[0])
    running.record(0)
    running.combine(1)
    assert all(torch.isfinite(value).all() for value in running.state().values())


def test_an_evaluation_sees_the_running_copy_and_not_the_last_micro_batch() -> None:
    watched = network()
    running = RunningStatistics(watched)
    watched(inputs(1)[0])
    running.record(0)
    running.combine(1)
    held = running.state()
    watched.eval()
    watched(inputs(3)[2])
    assert all(torch.equal(buffers(watched)[name], value) for name, value in held.items())


def test_what_was_saved_is_loaded() -> None:
    first, second = network(), network()
    running, other = RunningStatistics(first), RunningStatistics(second)
    first(inputs(1)[0])
    running.record(0)
    running.combine(1)
    other.load(running.state())
    for name, value in running.state().items():
        assert torch.equal(other.state()[name], value)
        assert torch.equal(buffers(second)[name], value)


def test_half_precision_weights_keep_a_running_copy_in_full_precision() -> None:
    watched = network()
    watched.to(torch.bfloat16)
    for layer in (watched[1], watched[4]):
        layer.running_mean, layer.running_var = layer.running_mean.float(), layer.running_var.float()
    running = RunningStatistics(watched)
    for index, batch in enumerate(inputs(2)):
        watched(batch.bfloat16())
        running.record(index)
    running.combine(2)
    assert {value.dtype for value in running.state().values()} == {torch.float32}
    assert {value.dtype for value in buffers(watched).values()} == {torch.bfloat16}


def test_a_module_without_batch_norms_has_none() -> None:
    running = RunningStatistics(nn.Linear(2, 2))
    running.record(0)
    running.combine(4)
    running.discard()
    running.load({})
    assert running.state() == {}
