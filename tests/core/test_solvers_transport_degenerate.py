import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transport_problems import INF, PENALTIES, cosine_problems, pot_plan, random_problems

from medalign_core.solvers.sinkhorn import Sinkhorn, Status
from medalign_core.solvers.transport import host
from medalign_core.solvers.transport.outcome import Outcome

BACKENDS = ["torch", "compiled"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (5, 1), (4, 4)])
def test_small_and_square_problems(backend, rho_a, rho_b, rows, columns):
    cost, a, b = random_problems(2, rows, columns)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-12, backend=backend)
    assert (solver(cost, a, b).plan() - pot_plan(cost, a, b, solver)).abs().max() < 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
def test_equal_costs_give_the_product_of_the_weights(backend, rho_a, rho_b):
    _, a, b = random_problems(2, 7, 4)
    cost = torch.full((2, 7, 4), 0.5, dtype=torch.float64)
    found = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-13, backend=backend)(cost, a, b)
    scale = 1.0 if INF in (rho_a, rho_b) else math.exp(-0.5 / (0.1 + rho_a + rho_b))
    assert (found.plan() - scale * a[:, :, None] * b[:, None, :]).abs().max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_identical_prompts_share_their_mass(backend):
    cost, a, _ = random_problems(2, 9, 3)
    cost[:, :, 2] = cost[:, :, 1]
    plan = Sinkhorn(epsilon=0.02, rho_a=INF, rho_b=0.02, backend=backend)(cost, a).plan()
    assert (plan[:, :, 2] - plan[:, :, 1]).abs().max() < 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
def test_atoms_without_weight_are_as_if_removed(backend, rho_a, rho_b):
    cost, a, b = random_problems(2, 8, 5)
    a[:, 3], b[:, 0] = 0, 0
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-13, backend=backend)
    found, rows = solver(cost, a, b), [0, 1, 2, 4, 5, 6, 7]
    expected = solver(cost[:, rows, 1:], a[:, rows], b[:, 1:])
    assert (found.plan()[:, rows, 1:] - expected.plan()).abs().max() < 1e-12
    assert (found.plan()[:, 3] == 0).all()
    assert (found.plan()[:, :, 0] == 0).all()
    assert (found.f[:, 3] == 0).all()
    assert (found.g[:, 0] == 0).all()
    assert (found.value - expected.value).abs().max() < 1e-12


def test_no_problems_at_all_have_no_answers():
    found = Sinkhorn(epsilon=0.1)(torch.zeros(0, 5, 3))
    assert found.plan().shape == (0, 5, 3)
    assert found.value.shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
@pytest.mark.parametrize("method", ["newton", "sinkhorn", "translation_invariant", "exact"])
def test_costs_that_cannot_be_are_named_with_the_problem_and_the_way_out(value, method):
    cost = torch.rand(4, 5, 3)
    cost[2, 1, 0] = value
    with pytest.raises(ValueError, match="cost of problem 2 .*mask"):
        Sinkhorn(epsilon=0.005, method=method)(cost)


def test_weights_that_cannot_be_are_named_with_the_problem_and_the_way_out():
    cost, a, b = random_problems(3, 5, 4)
    solver = Sinkhorn(epsilon=0.1)
    for weights, words in (
        ((torch.zeros(3, 5), b), "a of problem 0"),
        ((a, b.clone().index_fill_(0, torch.tensor(1), -1.0)), "b of problem 1"),
        ((a, b * torch.nan), "b of problem 0"),
        ((2 * a, b), "same mass"),
        ((a[:, :4], b), "a must be"),
        ((a, b[:2]), "b must be"),
    ):
        with pytest.raises(ValueError, match=words):
            solver(cost, *weights)
    with pytest.raises(ValueError, match="masked"):
        solver(cost, valid_b=torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="floating"):
        solver(torch.ones(2, 3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"cost must be \(P, M, N\)"):
        solver(cost[0])


@pytest.mark.parametrize("method", ["newton", "sinkhorn", "translation_invariant"])
@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_a_device_that_must_not_be_read_gets_the_same_answers(monkeypatch, method, epsilon):
    cost, a, b = random_problems(6, 20, 5)
    cost[::2] *= 0.1  # so that problems end at different steps
    b[1, 2] = 0
    for rho_a, rho_b in PENALTIES[:4]:
        common = {"epsilon": epsilon, "rho_a": rho_a, "rho_b": rho_b, "tol": 1e-10}
        most = 20 if method == "newton" else 1000  # every one of them runs where nothing may be read
        solver = Sinkhorn(**common, method=method, backend="torch", max_iterations=most)
        expected = solver(cost, a, b)
        with monkeypatch.context() as patch:
            patch.setattr(host, "may_read", lambda _: False)
            found = solver(cost, a, b)
        assert (found.plan() - expected.plan()).abs().max() < 1e-8
        assert (found.value - expected.value).abs().max() < 1e-8
        assert ((found.status == Status.CONVERGED) == (expected.status == Status.CONVERGED)).all()


def test_where_raising_would_make_the_host_wait_such_problems_are_marked_and_the_others_solved(monkeypatch):
    cost, a, b = random_problems(4, 6, 4)
    expected = Sinkhorn(epsilon=0.1, rho=1.0, tol=1e-12)(cost, a, b)
    cost[1, 2, 2], b[3] = torch.nan, 0
    monkeypatch.setattr(host, "may_read", lambda _: False)
    found = Sinkhorn(epsilon=0.1, rho=1.0, tol=1e-12, backend="torch")(cost, a, b)
    assert (found.status == Status.FAILED).tolist() == [False, True, False, True]
    assert (found.plan()[[0, 2]] - expected.plan()[[0, 2]]).abs().max() < 1e-10
    assert (found.plan()[[1, 3]] == 0).all()
    assert found.value[[1, 3]].isnan().all()
    assert torch.isfinite(found.f).all()


@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
def test_problems_that_end_at_different_steps_do_not_disturb_each_other(rho_a, rho_b):
    cost, a, b = random_problems(6, 20, 5)
    cost[::2] *= 0.1  # so that problems end at different steps
    common = {"rho_a": rho_a, "rho_b": rho_b, "tol": 1e-10, "backend": "torch"}
    found = Sinkhorn(epsilon=0.05, **common)(cost, a, b)
    one_by_one = [Sinkhorn(epsilon=0.05, **common)(cost[k : k + 1], a[k : k + 1], b[k : k + 1]) for k in range(6)]
    assert (found.plan() - torch.cat([x.plan() for x in one_by_one])).abs().max() < 1e-12
    assert len(set(found.iterations.tolist())) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_costs_have_finite_plans(dtype, backend):
    cost, a, b = random_problems(4, 8, 3, dtype=dtype)
    for scale in (1e4, 1e20, 1e28):
        for rho_a, rho_b in PENALTIES:
            found = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, backend=backend)(cost * scale, a, b)
            plan = found.plan()
            assert torch.isfinite(plan).all()
            assert (plan >= 0).all()


COSTS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, -1e30, 1e38, math.nan, math.inf, -math.inf])
MASSES = st.sampled_from([0.0, 1.0, 0.25, 1e-30, 1e20, -1.0, math.nan])


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_input_gives_a_finite_plan_or_an_error_that_names_it(data):
    count, rows, columns = (data.draw(st.integers(1, most)) for most in (2, 5, 4))
    draws = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    cost = torch.from_numpy(draws.uniform(0, 2, (count, rows, columns)))
    for _ in range(data.draw(st.integers(0, 2))):
        cost[tuple(int(draws.integers(n)) for n in cost.shape)] = data.draw(COSTS)
    if data.draw(st.booleans()):
        cost = torch.full_like(cost, data.draw(COSTS))
    weights = [None, None]
    for k, size in enumerate((rows, columns)):
        if data.draw(st.booleans()):
            weights[k] = torch.tensor([data.draw(MASSES) for _ in range(size)], dtype=torch.float64)
    rho = data.draw(st.sampled_from([(1.0, 1.0), (INF, 0.05), (1e-3, 1e3), (INF, INF), (1e-6, INF)]))
    solver = Sinkhorn(
        epsilon=data.draw(st.sampled_from([0.005, 0.1, 1.0])),
        rho_a=rho[0],
        rho_b=rho[1],
        method=data.draw(st.sampled_from(["newton", "newton", "translation_invariant"])),
        backend=data.draw(st.sampled_from(["auto", "torch"])),
        max_iterations=200,
    )
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    try:
        found = solver(cost.to(dtype), *weights)
    except ValueError as error:
        assert str(error).split()[0] in ("cost", "a", "b")  # noqa: PT017 — an error is one of two right answers
        return
    assert torch.isfinite(found.plan()).all()
    assert (found.plan() >= 0).all()
    assert (found.status != Status.FAILED).all()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.integers(1, 200), columns=st.integers(1, 16), seed=st.integers(0, 1000), swap=st.booleans())
def test_any_shape_is_solved_alike_by_newton_and_by_sweeps(rows, columns, seed, swap):
    cost, a, b = random_problems(2, rows, columns, seed=seed)
    cost, a, b = (cost.transpose(1, 2), b, a) if swap else (cost, a, b)
    plans = []
    for path in ({"backend": "torch"}, {"backend": "compiled"}, {"method": "translation_invariant"}):
        found = Sinkhorn(epsilon=0.1, rho_a=0.5, rho_b=0.2, tol=1e-11, **path)(cost, a, b)
        assert (found.status == Status.CONVERGED).all()
        plans.append(found.plan())
    assert (plans[0] - plans[1]).abs().max() < 1e-10
    assert (plans[0] - plans[2]).abs().max() < 1e-10


def test_an_iteration_limit_is_told():
    found = Sinkhorn(epsilon=0.01, rho=100.0, max_iterations=2)(cosine_problems(8, 50, 4))
    assert (found.status == Status.ITERATION_LIMIT).all()
    assert (found.iterations == 2).all()


def test_a_precision_out_of_reach_is_told():
    cost = cosine_problems(8, 50, 4, dtype=torch.float32)
    for method in ("newton", "translation_invariant"):
        found = Sinkhorn(epsilon=0.05, rho=1.0, tol=1e-12, method=method, backend="torch", max_iterations=3000)(cost)
        assert (found.status == Status.STALLED).all()
        assert found.residual.max() < 1e-5
        assert found.iterations.max() < 1000


def test_outcomes_of_no_problem_have_shapes():
    empty = Outcome.empty(torch.zeros(0, 4, 2))
    assert empty.f.shape == (0, 4)
    assert empty.transposed().f.shape == (0, 2)
