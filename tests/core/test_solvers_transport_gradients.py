import math

import pytest
import torch
from transport_problems import INF, PENALTIES, cosine_problems, primal_value, random_problems

from medalign_core.solvers.sinkhorn import Sinkhorn

BACKENDS = ["torch", "compiled"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
@pytest.mark.parametrize(("rows", "columns"), [(7, 3), (3, 7)])
def test_the_values_gradient_is_the_plan(backend, rho_a, rho_b, rows, columns):
    cost, a, b = random_problems(2, rows, columns)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-13, backend=backend)
    cost.requires_grad_()
    found = solver(cost, a, b)
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found.value * weight).sum(), cost)
    assert torch.equal(gradient, found.plan() * weight[:, None, None])
    step = 1e-4 * torch.randn(cost.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    change = (solver(cost.detach() + step, a, b).value - solver(cost.detach() - step, a, b).value) / 2
    assert (change - (found.plan() * step).sum((1, 2))).abs().max() < 1e-8 * 1e-2


@pytest.mark.parametrize("gradient", ["envelope", "detach"])
def test_a_detached_plan_is_the_gradient_of_the_similarity_exactly(gradient):
    similarity = torch.rand(3, 9, 4, requires_grad=True)
    plan = Sinkhorn(epsilon=0.1, rho_a=INF, rho_b=0.1, gradient=gradient)(1 - similarity).plan()
    logits = 100 * (plan * similarity).sum((1, 2))
    (found,) = torch.autograd.grad(logits, similarity, torch.tensor([1.0, 0.5, -2.0]))
    assert torch.equal(found, 100 * plan * torch.tensor([1.0, 0.5, -2.0])[:, None, None])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rows", "columns"), [(50, 4), (6, 9)])
def test_the_implicit_gradient_is_that_of_three_hundred_sweeps(backend, rows, columns):
    cost = cosine_problems(4, rows, columns).requires_grad_()
    weight = torch.randn(cost.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for kind, method in (("implicit", "newton"), ("unroll", "sinkhorn")):
        options = {"backend": backend} if method == "newton" else {"max_iterations": 300}
        solver = Sinkhorn(epsilon=0.1, rho=1.0, tol=1e-14, gradient=kind, method=method, **options)
        gradients.append(torch.autograd.grad((solver(cost).plan() * weight).sum(), cost)[0])
    assert gradients[1].abs().max() > 1e-3
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-10


@pytest.mark.parametrize(("rho_a", "rho_b"), [(0.3, 0.3), (INF, 0.1), (0.05, INF), (INF, INF), (1e5, 1e4)])
@pytest.mark.parametrize("reference", ["kl", "counting"])
def test_unrolled_sweeps_agree_for_every_penalty_and_reference(rho_a, rho_b, reference):
    cost, a, b = random_problems(2, 6, 4)
    cost.requires_grad_()
    weight = torch.randn(cost.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    common = {"epsilon": 0.2, "rho_a": rho_a, "rho_b": rho_b, "reference": reference}
    unrolled = Sinkhorn(**common, gradient="unroll", method="sinkhorn", max_iterations=3000)(cost, a, b)
    implicit = Sinkhorn(**common, gradient="implicit", tol=1e-14)(cost, a, b)
    tight = 1e-9 if max(rho_a, rho_b) != 1e5 else 1e-4  # sweeps are far from converged there
    assert (unrolled.plan() - implicit.plan()).abs().max() < tight
    gradients = [
        torch.autograd.grad((f.plan() * weight).sum(), cost, retain_graph=True)[0] for f in (implicit, unrolled)
    ]
    assert (gradients[0] - gradients[1]).abs().max() < tight
    if tight == 1e-9:
        (by_sweeps,) = torch.autograd.grad(unrolled.value.sum(), cost)
        assert (by_sweeps - implicit.plan()).abs().max() < 1e-8


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (2, 4), (4, 1)])
def test_gradcheck_of_the_implicit_plan(backend, rho_a, rho_b, rows, columns):
    cost, a, b = random_problems(2, rows, columns)
    solver = Sinkhorn(epsilon=0.3, rho_a=rho_a, rho_b=rho_b, tol=1e-14, gradient="implicit", backend=backend)
    assert torch.autograd.gradcheck(lambda c: solver(c, a, b).plan(), cost.requires_grad_(), atol=1e-6)


def test_the_implicit_gradient_of_a_balanced_plan_keeps_its_marginals():
    cost, a, b = random_problems(3, 8, 5)
    cost.requires_grad_()
    plan = Sinkhorn(epsilon=0.1, tol=1e-13, gradient="implicit")(cost, a, b).plan()
    for marginal in (plan.sum(1), plan.sum(2)):
        (gradient,) = torch.autograd.grad(marginal[:, 0].sum(), cost, retain_graph=True)
        assert gradient.abs().max() < 1e-10


def test_masked_costs_get_no_gradient_even_if_they_are_nan():
    cost, a, b = random_problems(2, 8, 4)
    cost[:, 6:] = torch.nan
    cost.requires_grad_()
    valid = torch.arange(8).expand(2, -1) < 6
    found = Sinkhorn(epsilon=0.1, rho=1.0, gradient="implicit", tol=1e-12)(cost, a, b, valid_a=valid)
    (gradient,) = torch.autograd.grad((found.plan()[:, :6] ** 2).sum() + found.value.sum(), cost)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 6:] == 0).all()


def test_no_gradient_of_weights_is_made_up():
    cost, a, b = random_problems(2, 5, 3)
    for weights in ((a.clone().requires_grad_(), b), (a, b.clone().requires_grad_())):
        with pytest.raises(ValueError, match="requires a gradient"):
            Sinkhorn(epsilon=0.1)(cost, *weights)


def test_nothing_is_saved_per_iteration():
    cost = cosine_problems(16, 30, 4).requires_grad_()
    sizes = []
    for epsilon in (0.1, 0.005):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=saved: kept.append(x.numel()) or x, lambda x: x):
            Sinkhorn(epsilon=epsilon, rho=10.0, gradient="implicit", backend="torch")(cost).plan()
        sizes.append(sum(saved))
    assert sizes[0] == sizes[1] <= 2 * cost.numel()


def test_the_value_of_plans_without_entropy_has_the_plan_as_gradient():
    cost, a, b = random_problems(2, 6, 4)
    cost.requires_grad_()
    for solver in (Sinkhorn(method="exact"), Sinkhorn(method="mm", rho=0.5, tol=1e-10, max_iterations=100_000)):
        found = solver(cost, a, b)
        (gradient,) = torch.autograd.grad(found.value.sum(), cost)
        assert torch.equal(gradient, found.plan())


def test_mm_minimises_its_objective():
    cost, a, b = random_problems(2, 6, 4)
    solver = Sinkhorn(method="mm", rho=0.5, tol=1e-10, max_iterations=100_000)
    found = solver(cost, a, b)
    sharp = Sinkhorn(epsilon=1e-12, rho=0.5)  # only its objective is used: entropy counts for nothing
    torch.testing.assert_close(found.value, primal_value(found.plan(), cost, a, b, sharp), rtol=0, atol=1e-9)
    for epsilon in (0.1, 0.001):
        other = Sinkhorn(epsilon=epsilon, rho=0.5, tol=1e-12)(cost, a, b).plan()
        assert (primal_value(other, cost, a, b, sharp) >= found.value - 1e-9).all()
    assert math.isfinite(found.f.sum().item())
