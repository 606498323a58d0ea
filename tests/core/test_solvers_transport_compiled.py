import numpy as np
import ot
import pytest
import torch
from numba import njit

from medalign_core.solvers.sinkhorn import Sinkhorn
from medalign_core.solvers.transport import compiled
from medalign_core.solvers.transport.compiled_functions import exp, exp2_below, log, log2
from medalign_core.solvers.transport.compiled_lanes import load, store

INF = float("inf")
SIDES = [(1.0, 1.0), (0.1, 0.5), (INF, 0.05), (0.05, INF), (INF, INF)]
HARDNESS = (0.1, 1.0, 10.0, 100.0)


def problems(count, m, n, *, dtype=np.float64, seed=0, dim=16):
    rng = np.random.default_rng(seed)
    v, p = rng.normal(size=(count, m, dim)), rng.normal(size=(count, n, dim))
    v, p = v / np.linalg.norm(v, axis=-1, keepdims=True), p / np.linalg.norm(p, axis=-1, keepdims=True)
    a, b = rng.uniform(0.2, 1, (count, m)), rng.uniform(0.2, 1, (count, n))
    cost = 1 - v @ p.transpose(0, 2, 1)
    return tuple(x.astype(dtype) for x in (cost, a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)))


def uniform(cost):
    return tuple(np.full((1, size), 1 / size, cost.dtype) for size in cost.shape[1:])


def tau(rho, epsilon):
    return 1.0 if np.isinf(rho) else rho / (rho + epsilon)


def sweep(cost, a, b, epsilon, sides, sweeps):
    """The log-domain Sinkhorn oracle in torch: the plan after some sweeps, differentiable through all of them."""
    tau_a, tau_b = (tau(rho, epsilon) for rho in sides)
    g = torch.zeros_like(b.expand(len(cost), -1))
    for _ in range(sweeps):
        f = -tau_a * torch.logsumexp(b.log()[:, None] + g[:, None] - cost / epsilon, 2)
        g = -tau_b * torch.logsumexp(a.log()[:, :, None] + f[:, :, None] - cost / epsilon, 1)
    return a[:, :, None] * b[:, None] * torch.exp(f[:, :, None] + g[:, None] - cost / epsilon)


def error(cost, a, b, f, g, epsilon, sides):
    """The L1 error of both marginals in float64, from the potentials."""
    cost, a, b, f, g = (np.asarray(x, np.float64) for x in (cost, a, b, f, g))
    plan = a[:, :, None] * b[:, None] * np.exp((f[:, :, None] + g[:, None] - cost) / epsilon)
    rows, columns = plan.sum(2) - a * np.exp(-f / sides[0]), plan.sum(1) - b * np.exp(-g / sides[1])
    return np.abs(rows).sum(1) + np.abs(columns).sum(1)


def solved(cost, a, b, epsilon, sides, **settings):
    plan = np.empty_like(cost)
    arguments = {"epsilon": epsilon, "rho_a": sides[0], "rho_b": sides[1], **settings}
    return *compiled.solve(cost, a, b, plan_out=plan, **arguments), plan


@njit
def evaluate(function, x, y):
    for i in range(x.size * x.itemsize // 64):
        if function == 0:
            store(y, i, exp(load(x, i)))
        elif function == 1:
            store(y, i, log(load(x, i)))
        elif function == 2:
            store(y, i, log2(load(x, i)))
        else:
            store(y, i, exp2_below(load(x, i), 0.0))


@pytest.mark.parametrize(("dtype", "reach"), [(np.float32, 87.0), (np.float64, 708.0)])
def test_exponentials_and_logarithms_are_within_two_units_in_the_last_place(dtype, reach):
    x = np.concatenate([np.linspace(-reach, reach, 2**16), np.linspace(-1, 1, 2**16)]).astype(dtype)
    functions = ((0, x, np.exp), (1, np.exp(x), np.log), (2, np.exp(x), np.log2), (3, -np.abs(x), np.exp2))
    for function, inputs, exact in functions:
        found, truth = np.empty_like(inputs), exact(inputs.astype(np.longdouble))
        evaluate(function, inputs, found)
        assert (np.abs(found - truth) <= 2 * np.spacing(np.abs(truth).astype(dtype))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_are_zero_far_below_saturate_far_above_and_keep_nan(dtype):
    x = np.array([-INF, -1e30, 0.0, 1.0, 1e30, INF, np.nan, -1.0] * 2, dtype)
    y, capped = np.empty_like(x), np.empty_like(x)
    evaluate(0, x, y)
    evaluate(3, x, capped)
    assert y[:3].tolist() == [0.0, 0.0, 1.0]
    assert np.isfinite(y[4:6]).all()
    assert np.isnan(y[6])
    assert capped[2:6].tolist() == [1.0] * 4


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("epsilon", [0.1, 0.05])
def test_the_plan_is_that_of_the_python_optimal_transport_library(epsilon, sides):
    cost, a, b = problems(3, 12, 4)
    *_, status, plan = solved(cost, a, b, epsilon, sides, tol=1e-13)
    assert (status <= 1).all()
    for p in range(3):
        if np.isinf(sides).all():
            oracle = ot.sinkhorn(a[p], b[p], cost[p], epsilon, stopThr=1e-14, numItermax=100_000)
        else:
            settings = {"reg_m": sides, "reg_type": "kl", "stopThr": 1e-15, "numItermax": 100_000}
            oracle = ot.unbalanced.sinkhorn_unbalanced(a[p], b[p], cost[p], epsilon, **settings)
        np.testing.assert_allclose(plan[p], oracle, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (3, 2), (17, 3), (50, 4), (9, 5), (197, 8), (33, 13), (40, 32)])
def test_every_shape_meets_the_log_domain_sweeps(shape):
    cost, a, b = problems(5, *shape)
    oracle = sweep(*(torch.from_numpy(x) for x in (cost, a, b)), 0.1, (0.5, 0.2), 200)
    *_, plan = solved(cost, a, b, 0.1, (0.5, 0.2), tol=1e-13)
    np.testing.assert_allclose(plan, oracle.numpy(), atol=1e-13)


@pytest.mark.parametrize("sides", SIDES)
def test_the_plan_written_and_the_plan_of_the_potentials_agree(sides):
    cost, a, b = problems(20, 30, 6)
    f, g, *_, plan = solved(cost, a, b, 0.05, sides, tol=1e-13)
    np.testing.assert_allclose(compiled.plan(cost, a, b, f, g, epsilon=0.05), plan, atol=1e-14)
    assert error(cost, a, b, f, g, 0.05, sides).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sides", [(1.0, 1.0), (INF, 0.1), (INF, INF)])
def test_an_atom_without_weight_is_as_if_it_were_not_there(dtype, sides):
    cost, a, b = problems(18, 23, 6, dtype=dtype)
    a[:, 20:], b[:, 4:] = 0, 0
    cost[:, 20:], cost[:, :, 4:] = -5.0, -7.0  # tempting, were they there
    f, g, *_, plan = solved(cost, a, b, 0.05, sides)
    small = tuple(np.ascontiguousarray(x) for x in (cost[:, :20, :4], a[:, :20], b[:, :4]))
    *_, smaller = solved(*small, 0.05, sides)
    np.testing.assert_allclose(plan[:, :20, :4], smaller, atol=3e-6 if dtype == np.float32 else 1e-6)
    assert (plan[:, 20:] == 0).all()
    assert (plan[:, :, 4:] == 0).all()
    assert (f[:, 20:] == 0).all()
    assert (g[:, 4:] == 0).all()


@pytest.mark.parametrize("epsilon", [0.1, 0.01])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_problem_has_the_same_bits_in_every_batch_and_on_every_number_of_threads(dtype, epsilon):
    cost, a, b = problems(37, 50, 4, dtype=dtype)
    for sides in ((1.0, 1.0), (INF, INF)):
        whole = solved(cost, a, b, epsilon, sides)
        weights = np.random.default_rng(1).normal(size=cost.shape).astype(dtype)
        gradient = compiled.plan_backward(whole[-1], weights, epsilon=epsilon, rho_a=sides[0], rho_b=sides[1])
        threaded = solved(cost, a, b, epsilon, sides, threads=3)
        order = np.random.default_rng(0).permutation(37)[:20]
        part = solved(cost[order], a[order], b[order], epsilon, sides)
        alone = solved(cost[30:31], a[30:31], b[30:31], epsilon, sides)
        for full, other, some, single in zip(whole, threaded, part, alone, strict=True):
            np.testing.assert_array_equal(full, other)
            np.testing.assert_array_equal(full[order], some)
            np.testing.assert_array_equal(full[30:31], single)
        again = compiled.plan_backward(
            whole[-1][order], weights[order], epsilon=epsilon, rho_a=sides[0], rho_b=sides[1], threads=2
        )
        np.testing.assert_array_equal(gradient[order], again)


def test_weights_shared_by_a_batch_give_the_answer_of_weights_written_out():
    cost, _, _ = problems(20, 50, 4)
    a, b = uniform(cost)
    shared = solved(cost, a, b, 0.1, (1.0, 1.0))
    for other in (np.repeat(a, 20, 0), np.broadcast_to(a, (20, 50))):
        for one, two in zip(shared, solved(cost, other, np.repeat(b, 20, 0), 0.1, (1.0, 1.0)), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("shape", [(50, 4), (197, 8)])
@pytest.mark.parametrize(("epsilon", "most"), [(0.1, 4), (0.05, 5), (0.02, 6), (0.01, 16)])
def test_few_steps_reach_one_millionth_at_every_hardness(shape, epsilon, most):
    cost, _, _ = problems(128, *shape)
    for rho in HARDNESS:
        f, g, iterations, residual, status, _ = solved(cost, *uniform(cost), epsilon, (rho, rho))
        assert (status == 0).all()
        assert iterations.max() <= most
        assert residual.max() <= 1e-6
        assert error(cost, *uniform(cost), f, g, epsilon, (rho, rho)).max() <= 1.01e-6


@pytest.mark.parametrize("shape", [(50, 4), (7, 3), (4, 4), (20, 13)])
@pytest.mark.parametrize("epsilon", [0.1, 0.02, 0.01, 0.005])
def test_float32_is_finite_and_accurate_down_to_small_epsilon(shape, epsilon):
    cost, _, _ = problems(64, *shape, dtype=np.float32)
    cost *= 2 / cost.max()
    for sides in (*((rho, rho) for rho in HARDNESS), (INF, epsilon), (0.05, INF), (INF, INF)):
        *answers, plan = solved(cost, *uniform(cost), epsilon, sides)
        _, _, _, residual, status = answers
        assert all(np.isfinite(x).all() for x in (*answers, plan))
        assert (status <= 1).all()
        assert residual.max() < 1e-5
        exact = solved(cost.astype(np.float64), *uniform(cost.astype(np.float64)), epsilon, sides, tol=1e-10)[-1]
        assert np.abs(plan - exact).sum((1, 2)).max() < 2e-4 + 2e-3 * np.isinf(sides).all()


def test_far_costs_and_empty_problems_leave_finite_answers():
    cost, a, b = problems(20, 10, 3, dtype=np.float32)
    cost[:, 2, 1], cost[:, 4, 0] = 1e30, np.inf
    a[1], b[2] = 0, 0
    for sides in ((1.0, 1.0), (INF, 0.1)):
        *answers, plan = solved(cost, a, b, 0.05, sides)
        assert all(np.isfinite(x).all() for x in (*answers, plan))
        assert (plan[1] < 1e-30).all()
        assert (plan[2] == 0).all()
        assert (answers[4][3:] == 0).all()


def test_a_nan_fails_its_own_problem_alone():
    cost, a, b = problems(20, 10, 3, dtype=np.float32)
    clean = solved(cost, a, b, 0.05, (1.0, 1.0))
    cost[7, 3, 1] = np.nan
    spoilt = solved(cost, a, b, 0.05, (1.0, 1.0))
    assert spoilt[4].tolist() == [compiled.FAILED if p == 7 else compiled.CONVERGED for p in range(20)]
    for one, two in zip(clean, spoilt, strict=True):
        np.testing.assert_array_equal(np.delete(one, 7, 0), np.delete(two, 7, 0))


def test_too_few_iterations_are_said_and_the_best_point_is_kept():
    cost, a, b = problems(20, 50, 4)
    f, g, iterations, residual, status, _ = solved(cost, a, b, 0.01, (10.0, 10.0), max_iterations=1)
    assert (status == compiled.LIMIT).all()
    assert iterations.max() <= 1
    np.testing.assert_allclose(residual, error(cost, a, b, f, g, 0.01, (10.0, 10.0)), rtol=1e-9)


@pytest.mark.parametrize("sides", SIDES)
def test_the_gradient_is_that_of_three_hundred_unrolled_sweeps(sides):
    cost, a, b = problems(4, 12, 5)
    weights = np.random.default_rng(1).normal(size=cost.shape)
    leaf = torch.from_numpy(cost).requires_grad_()
    oracle = sweep(leaf, torch.from_numpy(a), torch.from_numpy(b), 0.1, sides, 300)
    (oracle * torch.from_numpy(weights)).sum().backward()
    *_, plan = solved(cost, a, b, 0.1, sides, tol=1e-14)
    found = compiled.plan_backward(plan, weights, epsilon=0.1, rho_a=sides[0], rho_b=sides[1])
    assert np.abs(found - leaf.grad.numpy()).max() <= 1e-10


def test_the_float32_gradient_is_close_to_the_float64_one_and_zero_at_masked_atoms():
    cost, a, b = problems(40, 197, 8)
    a[:, 150:] = 0
    weights = np.random.default_rng(1).normal(size=cost.shape)
    found = []
    for dtype in (np.float64, np.float32):
        *_, plan = solved(*(x.astype(dtype) for x in (cost, a, b)), 0.1, (1.0, 1.0), tol=1e-7)
        found.append(compiled.plan_backward(plan, weights.astype(dtype), epsilon=0.1, rho_a=1.0, rho_b=1.0))
    assert np.abs(found[0] - found[1]).max() <= 2e-6 * np.abs(found[0]).max()
    assert (found[1][:, 150:] == 0).all()


def test_wrong_arguments_are_named():
    cost, a, b = problems(2, 6, 3)
    with pytest.raises(TypeError, match="float32 or all float64"):
        compiled.solve(cost.astype(np.float32), a, b, epsilon=0.1)
    with pytest.raises(ValueError, match="N <= 32"):
        compiled.solve(np.zeros((1, 40, 33)), np.ones((1, 40)), np.ones((1, 33)), epsilon=0.1)
    for wrong in ({"epsilon": 0.0}, {"epsilon": 0.1, "rho_a": 0.0}, {"epsilon": 0.1, "threads": 0}):
        with pytest.raises(ValueError, match="must be"):
            compiled.solve(cost, a, b, **wrong)


@pytest.mark.parametrize("sides", [(1.0, 1.0), (0.1, 0.5), (INF, 0.01), (INF, INF)])
@pytest.mark.parametrize("shape", [(50, 4), (4, 30), (20, 20)])
def test_the_torch_path_gives_the_same_answer(shape, sides):
    cost, a, b = (torch.from_numpy(x) for x in problems(20, *shape))
    answers = []
    for backend in ("torch", "compiled"):
        leaf = cost.clone().requires_grad_()
        solver = Sinkhorn(epsilon=0.05, rho_a=sides[0], rho_b=sides[1], tol=1e-11, backend=backend, gradient="implicit")
        answer = solver(leaf, a, b)
        plan = answer.plan()
        (plan * torch.cos(torch.arange(plan[0].numel()).reshape(shape))).sum().backward()
        assert answer.backend == backend
        answers.append((plan.detach(), answer.value.detach(), answer.mass.detach(), leaf.grad))
    for one, two in zip(*answers, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-9)
