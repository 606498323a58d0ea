import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from transport_problems import (
    INF,
    PENALTIES,
    cosine_problems,
    fixed_point_error,
    pot_plan,
    primal_value,
    random_problems,
)

from medalign_core.solvers.sinkhorn import Sinkhorn, Status

PATHS = [
    {"method": "newton", "backend": "torch"},
    {"method": "newton", "backend": "compiled"},
    {"method": "sinkhorn", "max_iterations": 20000},
    {"method": "translation_invariant", "max_iterations": 5000},
]
NAMES = ["newton", "newton-compiled", "sinkhorn", "translation-invariant"]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("epsilon", [0.1, 0.05])
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
def test_every_method_finds_the_plan_of_pot(path, epsilon, rho_a, rho_b):
    cost, a, b = random_problems(3, 12, 5)
    solver = Sinkhorn(epsilon=epsilon, rho_a=rho_a, rho_b=rho_b, tol=1e-12, **path)
    found = solver(cost, a, b)
    assert (found.status == Status.CONVERGED).all()
    assert found.backend == path.get("backend", "torch")
    assert (found.plan() - pot_plan(cost, a, b, solver)).abs().max() < 1e-9
    torch.testing.assert_close(found.plan().sum((1, 2)), found.mass, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", [PATHS[0], *PATHS[2:]], ids=["newton", "sinkhorn", "translation-invariant"])
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES[:4])
def test_the_counting_reference_finds_what_pot_calls_entropy(path, rho_a, rho_b):
    cost, a, b = random_problems(3, 5, 12, seed=1)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-12, reference="counting", **path)
    assert (solver(cost, a, b).plan() - pot_plan(cost, a, b, solver)).abs().max() < 1e-9


def test_balanced_plans_are_those_of_pots_batched_solver():
    ot_batch = pytest.importorskip("ot.batch")
    cost, a, b = random_problems(4, 8, 8)
    result = ot_batch.solve_batch(cost, 0.1, a, b, max_iter=10000, tol=1e-13, reg_type="kl")
    assert (Sinkhorn(epsilon=0.1, tol=1e-12)(cost, a, b).plan() - result.plan).abs().max() < 1e-9


@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_equally_relaxed_sides_agree_with_geomloss_as_far_as_that_converges(rho):
    geomloss = pytest.importorskip("geomloss.ot")
    cost, a, b = random_problems(3, 8, 5)
    theirs = geomloss.solve_batch(cost, a=a, b=b, reg=0.1, unbalanced=rho, max_iter=2000)
    ours = Sinkhorn(epsilon=0.1, rho=rho, tol=1e-12)(cost, a, b)
    assert (theirs.plan - ours.plan()).abs().max() < 1e-3  # it averages updates while it anneals epsilon
    assert (theirs.value - ours.value).abs().max() < 1e-3


def test_uot_approaches_balanced_ot_as_one_over_rho():
    cost = cosine_problems(16, 50, 4)
    hard = Sinkhorn(epsilon=0.1, tol=1e-13)(cost).plan()
    strengths = np.array([10.0, 100.0, 1000.0])
    gaps = [(Sinkhorn(epsilon=0.1, rho=r, tol=1e-13)(cost).plan() - hard).abs().max().item() for r in strengths]
    slope = np.polyfit(np.log(strengths), np.log(gaps), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)


def test_uot_approaches_the_gibbs_kernel_linearly_as_rho_vanishes():
    cost, a, b = random_problems(4, 12, 4)
    gibbs = a[:, :, None] * b[:, None, :] * torch.exp(-cost / 0.1)
    errors = [
        ((Sinkhorn(epsilon=0.1, rho=rho, tol=1e-13)(cost, a, b).plan() - gibbs) / gibbs).abs().max().item()
        for rho in (1e-3, 1e-4, 1e-5)
    ]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.05)


def test_hard_rows_and_free_columns_are_softmax_attention():
    cost = cosine_problems(4, 20, 5)
    plan = Sinkhorn(epsilon=0.1, rho_a=INF, rho_b=1e-9, tol=1e-13)(cost).plan()
    assert (plan - torch.softmax(-cost / 0.1, dim=2) / 20).abs().max() < 1e-8


def test_the_entropic_plan_approaches_the_one_without_entropy():
    cost, a, b = random_problems(2, 8, 5)
    sharp = Sinkhorn(method="mm", rho=0.5, tol=1e-11, max_iterations=200_000)(cost, a, b)
    assert sharp.backend == "pot"
    gaps = [
        (Sinkhorn(epsilon=eps, rho=0.5, tol=1e-12)(cost, a, b).plan() - sharp.plan()).abs().max().item()
        for eps in (0.1, 0.03, 0.01, 0.003, 0.001)
    ]
    assert all(later < earlier for earlier, later in zip(gaps[:-1], gaps[1:], strict=True))
    assert gaps[-1] < 1e-2


def test_the_exact_plan_is_that_of_linear_programming():
    from scipy.optimize import linprog

    cost, a, b = random_problems(3, 6, 4)
    found = Sinkhorn(method="exact")(cost, a, b)
    for k in range(3):
        rows = np.kron(np.eye(6), np.ones(4))
        columns = np.kron(np.ones(6), np.eye(4))
        answer = linprog(cost[k].ravel().numpy(), A_eq=np.vstack([rows, columns]), b_eq=torch.cat([a[k], b[k]]).numpy())
        assert found.value[k].item() == pytest.approx(answer.fun, abs=1e-9)
    dual = (a * found.f).sum(1) + (b * found.g).sum(1)
    torch.testing.assert_close(dual, found.value)
    assert (found.residual < 1e-9).all()


@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
@pytest.mark.parametrize("reference", ["kl", "counting"])
def test_the_value_is_the_objective_of_the_plan(rho_a, rho_b, reference):
    cost, a, b = random_problems(3, 9, 4)
    solver = Sinkhorn(epsilon=0.07, rho_a=rho_a, rho_b=rho_b, tol=1e-13, reference=reference)
    found = solver(cost, a, b)
    torch.testing.assert_close(found.value, primal_value(found.plan(), cost, a, b, solver), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("rho_a", "rho_b"), [(1.0, 1.0), (0.1, 2.0), (0.01, 0.03)])
def test_value_and_mass_obey_their_identity(rho_a, rho_b):
    cost, a, b = random_problems(4, 10, 3)
    found = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-13)(cost, a, b)
    assert (found.value - (0.1 + rho_a + rho_b) * (1 - found.mass)).abs().max() < 1e-10


@pytest.mark.parametrize("path", PATHS[:2], ids=NAMES[:2])
def test_a_constant_added_to_the_cost_scales_a_relaxed_plan_and_leaves_a_hard_one(path):
    cost, a, b = random_problems(2, 10, 4)
    relaxed = Sinkhorn(epsilon=0.1, rho_a=0.3, rho_b=0.7, tol=1e-13, **path)
    expected = relaxed(cost, a, b).plan() * math.exp(-0.5 / (0.1 + 0.3 + 0.7))
    assert (relaxed(cost + 0.5, a, b).plan() - expected).abs().max() < 1e-10
    for rho_a, rho_b in PENALTIES[2:]:
        hard = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-13, **path)
        assert (hard(cost + 0.5, a, b).plan() - hard(cost, a, b).plan()).abs().max() < 1e-10


@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
def test_splitting_an_atom_in_two_changes_nothing(rho_a, rho_b):
    cost, a, b = random_problems(2, 9, 4)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-14)
    whole = solver(cost, a, b)
    split_cost, split_b = torch.cat([cost, cost[:, :, :1]], dim=2), torch.cat([b, b[:, :1] * 0.3], dim=1)
    split_b[:, 0] *= 0.7
    split = solver(split_cost, a, split_b)
    joined = split.plan()[:, :, :4].clone()
    joined[:, :, 0] += split.plan()[:, :, 4]
    assert (joined - whole.plan()).abs().max() < 1e-12
    assert (split.value - whole.value).abs().max() < 1e-12


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_permuted_atoms_have_permuted_plans(path):
    cost, a, b = random_problems(3, 11, 6)
    solver = Sinkhorn(epsilon=0.1, rho_a=0.5, rho_b=2.0, tol=1e-14, **path)
    rows, columns = torch.randperm(11), torch.randperm(6)
    permuted = solver(cost[:, rows][:, :, columns], a[:, rows], b[:, columns]).plan()
    assert (permuted - solver(cost, a, b).plan()[:, rows][:, :, columns]).abs().max() < 1e-12


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
def test_potentials_fulfil_both_fixed_point_equations(path, rho_a, rho_b):
    cost, a, b = random_problems(3, 30, 5)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-8, **path)
    found = solver(cost, a, b)
    error = fixed_point_error(found, cost, a, b, solver)
    assert (error <= 1e-8).all()
    torch.testing.assert_close(error, found.residual, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("rho_a", "rho_b"), [(1.0, 1.0), (0.3, 0.1), (INF, 0.05)])
def test_sinkhorn_needs_no_more_sweeps_than_its_contraction_says(rho_a, rho_b):
    cost, a, b = random_problems(8, 20, 5)
    solver = Sinkhorn(epsilon=0.1, rho_a=rho_a, rho_b=rho_b, tol=1e-8, method="sinkhorn")
    rate = 1.0
    for rho in (rho_a, rho_b):
        rate *= 1.0 if math.isinf(rho) else rho / (rho + 0.1)
    assert solver(cost, a, b).iterations.max() <= math.log(1e-8) / math.log(rate) + 2


def test_masked_atoms_are_as_if_removed_and_may_hold_anything():
    cost, a, b = random_problems(3, 12, 6)
    for path in PATHS:
        solver = Sinkhorn(epsilon=0.1, rho_a=0.5, rho_b=2.0, tol=1e-13, **path)
        expected = solver(cost[:, :9, 1:], a[:, :9], b[:, 1:])
        padded = cost.clone()
        padded[:, 9:], padded[:, :, 0] = torch.nan, torch.inf
        valid_a, valid_b = torch.arange(12).expand(3, -1) < 9, torch.arange(6).expand(3, -1) >= 1
        found = solver(padded, a, b, valid_a=valid_a, valid_b=valid_b)
        assert (found.plan()[:, :9, 1:] - expected.plan()).abs().max() < 1e-12
        assert (found.plan()[:, 9:] == 0).all()
        assert (found.plan()[:, :, 0] == 0).all()
        assert (found.value - expected.value).abs().max() < 1e-12


def test_weights_left_out_are_uniform_over_the_valid_atoms():
    cost, _, _ = random_problems(2, 6, 4)
    valid = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    found = Sinkhorn(epsilon=0.1)(cost, valid_a=valid)
    expected = torch.tensor([1 / 3] * 3 + [0.0] * 3).double()
    torch.testing.assert_close(found.plan().sum(2)[1], expected, atol=1e-6, rtol=0)


def test_settings_that_make_no_sense_say_so():
    for wrong, words in (
        ({"epsilon": 0.0}, "epsilon must be"),
        ({"rho": -1.0}, "rho must be > 0"),
        ({"rho_b": math.nan}, "rho_b must be > 0"),
        ({"tol": INF}, "tol must be"),
        ({"max_iterations": 0}, "max_iterations must be"),
        ({"gradient": "unroll"}, "sinkhorn"),
        ({"method": "exact", "rho": 1.0}, "balanced"),
        ({"method": "mm"}, "finite rho"),
        ({"method": "mm", "rho": 1.0, "gradient": "implicit"}, "implicit"),
        ({"method": "sinkhorn", "backend": "compiled"}, "newton"),
    ):
        with pytest.raises(ValueError, match=words):
            Sinkhorn(**wrong)


def test_settings_are_frozen_and_comparable():
    solver = Sinkhorn(rho=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.rho = 2.0
    assert dataclasses.replace(solver, rho_a=INF).both_rho == (INF, 1.0)


def test_importing_the_settings_imports_no_framework_and_the_solver_no_platform():
    heavy = ("ray", "deepspeed", "transformers", "pyarrow")
    light = "import sys, medalign_core.solvers.sinkhorn; print([m for m in %r if m in sys.modules])"
    whole = (
        "import sys, torch; from medalign_core.solvers.sinkhorn import Sinkhorn, Transport;"
        "Sinkhorn(rho=1.0)(torch.rand(2, 4, 3)).plan(); print([m for m in %r if m in sys.modules])"
    )
    for code in (light % ((*heavy, "torch", "numba", "ot"),), whole % (heavy,)):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]"
