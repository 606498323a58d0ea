"""Optimizers: torch's own, with weight decay on matrices and filters alone."""

import numpy as np
import pytest
import torch
from torch import nn

from medalign.errors import RecipeError
from medalign.recipe import open_recipe
from medalign.training.lars import LayerwiseAdaptiveRate
from medalign.training.optimizers import LARS, SGD, Adam, AdamW


def module() -> nn.Module:
    torch.manual_seed(0)
    built = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    built[2].weight.requires_grad_(False)
    return built


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Adam(), torch.optim.Adam),
        (AdamW(), torch.optim.AdamW),
        (SGD(), torch.optim.SGD),
        (LARS(), LayerwiseAdaptiveRate),
    ],
)
def test_the_trained_parameters_are_grouped_by_whether_they_decay(
    settings: Adam | SGD | LARS, kind: type[torch.optim.Optimizer]
) -> None:
    built = module()
    optimizer = settings.build(built)
    assert type(optimizer) is kind
    decayed, others = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in others["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], others["weight_decay"]) == (settings.weight_decay, 0.0)
    assert decayed["lr"] == others["lr"] == settings.learning_rate
    assert built[2].weight not in set(decayed["params"])


def test_a_group_without_parameters_is_left_out() -> None:
    (group,) = Adam().build(nn.Linear(2, 2, bias=False)).param_groups
    assert len(group["params"]) == 1


def test_the_settings_reach_the_optimizer() -> None:
    adam = Adam(learning_rate=0.5, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.3).build(module())
    assert all((g["lr"], g["betas"], g["eps"]) == (0.5, (0.8, 0.9), 1e-4) for g in adam.param_groups)
    assert SGD(momentum=0.7).build(module()).param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (Adam, {"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        (SGD, {"learning_rate": float("nan")}, "learning_rate must be > 0"),
        (AdamW, {"weight_decay": -0.1}, "weight_decay must be >= 0, got -0.1"),
        (Adam, {"betas": (0.9, 1.0)}, "betas must be in"),
        (SGD, {"momentum": -0.5}, "momentum must be in"),
        (LARS, {"trust": 0.0}, "trust must be > 0 and finite, got 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: type, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**keys)


def test_a_step_of_lars_has_a_length_in_proportion_to_the_layer_and_not_to_the_gradient() -> None:
    for scale in (1.0, 1000.0):
        built = nn.Linear(3, 2)
        with torch.no_grad():
            built.weight.copy_(torch.tensor([[3.0, 0, 0], [0, 4, 0]]))  # of length 5
            built.bias.zero_()
        optimizer = LARS(learning_rate=0.1, weight_decay=0.0, trust=0.02).build(built)
        built.weight.grad = torch.tensor([[0.0, 0, 0], [0, 0, 2]]) * scale
        built.bias.grad = torch.ones(2) * scale
        optimizer.step()
        torch.testing.assert_close(built.weight[1, 2].item(), -0.1 * 0.02 * 5)
        torch.testing.assert_close(built.bias.detach(), torch.full((2,), -0.1 * scale))  # a bias is not adapted


def test_steps_of_lars_are_their_definition_in_numpy() -> None:
    draws = np.random.default_rng(0)
    weight, buffer = draws.normal(size=(4, 3)), np.zeros((4, 3))
    built = nn.Linear(3, 4, bias=False).double()
    with torch.no_grad():
        built.weight.copy_(torch.from_numpy(weight))
    optimizer = LARS(learning_rate=0.5, momentum=0.8, weight_decay=0.1, trust=0.05).build(built)
    for _ in range(4):
        gradient = draws.normal(size=(4, 3))
        built.weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        direction = gradient + 0.1 * weight
        buffer = 0.8 * buffer + 0.05 * np.linalg.norm(weight) / np.linalg.norm(direction) * direction
        weight = weight - 0.5 * buffer
        np.testing.assert_allclose(built.weight.detach().numpy(), weight, rtol=1e-12)


def test_a_layer_of_zeros_moves_by_the_plain_gradient() -> None:
    built = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(built.weight)
    built.weight.grad = torch.ones(2, 2)
    LARS(learning_rate=0.1).build(built).step()
    torch.testing.assert_close(built.weight.detach(), torch.full((2, 2), -0.1))


def test_lars_is_refused_where_zero_cuts_layers_apart() -> None:
    keys = ["data.corpus=corpora/any", "optimizer={type: lars}"]
    with pytest.raises(RecipeError, match="train.zero_stage.* must be 0 with optimizer.type: lars"):
        open_recipe("lvm_med/tiny_cpu", keys)
    assert open_recipe("lvm_med/tiny_cpu", [*keys, "train.zero_stage=0"])[0].optimizer == LARS()
