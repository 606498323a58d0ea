"""Schedules: closed forms, their ends, and what they refuse."""

import math

import pytest
import torch

from medalign.training.schedules import Constant, Cosine, Step


def test_a_cosine_starts_at_1_passes_the_middle_at_half_and_nears_its_end() -> None:
    schedule = Cosine()
    assert schedule.factor(0, 100) == 1.0
    assert schedule.factor(50, 100) == pytest.approx(0.5)
    assert schedule.factor(99, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert Cosine(final=0.2).factor(100, 100) == pytest.approx(0.2)


def test_a_cosine_is_the_one_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    other = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.3)
    for step in range(40):
        assert 3.0 * Cosine(final=0.1).factor(step, 40) == pytest.approx(other.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        other.step()


@pytest.mark.parametrize("schedule", [Cosine(warmup_steps=5), Step(warmup_steps=5), Constant(warmup_steps=5)])
def test_a_warm_up_rises_in_equal_steps_from_above_0_to_the_full_rate(schedule: Cosine | Step | Constant) -> None:
    assert [schedule.factor(step, 1000) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule.factor(5, 1000) == pytest.approx(1.0)


def test_the_default_steps_are_four_halvings_at_20_40_60_and_80_percent() -> None:
    found = [Step().factor(step, 10) for step in range(10)]
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]


def test_a_constant_rate_is_constant() -> None:
    assert {Constant().factor(step, 7) for step in range(7)} == {1.0}


def test_every_step_of_a_run_has_a_rate_above_0() -> None:
    for total in (1, 2, 3, 17):
        for schedule in (Cosine(), Cosine(warmup_steps=2), Cosine(warmup_steps=40), Step(), Constant()):
            assert all(0 < schedule.factor(step, total) <= 1 for step in range(total)), (schedule, total)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (Cosine, {"final": 1.5}, "final must be in"),
        (Cosine, {"warmup_steps": -1}, "warmup_steps must be >= 0, got -1"),
        (Constant, {"warmup_steps": -1}, "warmup_steps must be >= 0"),
        (Step, {"milestones": (0.5, 0.2)}, r"milestones must rise within \(0, 1\), got \[0.5, 0.2\]"),
        (Step, {"milestones": (0.5, 0.5)}, "milestones must rise"),
        (Step, {"milestones": (0.0, 0.5)}, "milestones must rise"),
        (Step, {"factor_per_milestone": 1.0}, "factor_per_milestone must be in"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(kind: type, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**keys)
