"""Optimizers: torch's own, with weight decay on matrices and filters alone."""

import pytest
import torch
from torch import nn

from medalign.training.optimizers import SGD, Adam, AdamW


def module() -> nn.Module:
    torch.manual_seed(0)
    built = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    built[2].weight.requires_grad_(False)
    return built


@pytest.mark.parametrize(
    ("settings", "kind"), [(Adam(), torch.optim.Adam), (AdamW(), torch.optim.AdamW), (SGD(), torch.optim.SGD)]
)
def test_the_trained_parameters_are_grouped_by_whether_they_decay(
    settings: Adam | SGD, kind: type[torch.optim.Optimizer]
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
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: type, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**keys)
