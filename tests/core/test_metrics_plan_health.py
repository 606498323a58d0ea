import pytest
import torch

from medalign_core.metrics.plan_health import plan_health


def health(plan: torch.Tensor, similarity: torch.Tensor | None = None, valid=None) -> dict[str, float]:
    problems = plan.shape[:-2]
    found = plan_health(
        plan,
        torch.zeros_like(plan) if similarity is None else similarity,
        valid,
        iterations=torch.full(problems, 3.0),
        converged=torch.ones(problems, dtype=torch.bool),
    )
    return {name: value.item() for name, value in found.items()}


def test_a_uniform_plan_does_nothing():
    similarity = torch.rand(2, 6, 4)
    found = health(torch.full((2, 6, 4), 1 / 24), similarity)
    assert found["plan_entropy"] == pytest.approx(1)
    assert found["prompt_mass_min"] == found["prompt_mass_max"] == pytest.approx(0.25)
    assert found["plan_gain"] == pytest.approx(0, abs=1e-7)
    assert found["iterations"] == 3
    assert found["unconverged"] == 0


def test_a_plan_on_one_pair_has_no_entropy():
    plan, similarity = torch.zeros(1, 6, 4), torch.zeros(1, 6, 4)
    plan[0, 2, 3] = similarity[0, 2, 3] = 1
    found = health(plan, similarity)
    assert found["plan_entropy"] == 0
    assert (found["prompt_mass_min"], found["prompt_mass_max"]) == (0, 1)
    assert found["plan_gain"] == pytest.approx(1 - 1 / 24)


def test_the_mass_of_a_plan_does_not_matter():
    plan, similarity = torch.rand(3, 5, 4), torch.rand(3, 5, 4)
    plan = plan / plan.sum((1, 2), keepdim=True)
    assert health(0.3 * plan, similarity) == pytest.approx(health(plan, similarity), abs=1e-6)


def test_prompts_that_do_not_exist_count_for_nothing():
    plan, similarity = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    valid = torch.tensor([True, True, True, False]).expand(2, 3, 4)
    plan[..., 3] = 0
    similarity[..., 3] = 77
    assert health(plan, similarity, valid) == pytest.approx(health(plan[..., :3], similarity[..., :3]), abs=1e-6)


def test_one_token_and_one_prompt_leave_no_choice():
    assert health(torch.ones(2, 1, 1))["plan_entropy"] == 1


def test_unconverged_problems_are_counted():
    plan = torch.rand(4, 3, 2)
    converged = torch.tensor([True, False, False, True])
    found = plan_health(plan, plan, iterations=torch.zeros(4), converged=converged)
    assert found["unconverged"] == 0.5
