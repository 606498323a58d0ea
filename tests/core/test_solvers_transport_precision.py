import pytest
import torch
from transport_problems import INF, PENALTIES, cosine_problems

from medalign_core.solvers.sinkhorn import Sinkhorn, Status

PATHS = [
    {"method": "newton", "backend": "torch"},
    {"method": "newton", "backend": "compiled"},
    {"method": "sinkhorn", "max_iterations": 20000},
    {"method": "translation_invariant", "max_iterations": 5000},
]
NAMES = ["newton", "newton-compiled", "sinkhorn", "translation-invariant"]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("epsilon", [0.1, 0.02])
def test_a_problem_alone_has_the_answer_it_has_in_a_batch(path, epsilon):
    cost = cosine_problems(40, 30, 4, dtype=torch.float32)
    cost[::7] *= 3  # so that some are narrow and some wide
    solver = Sinkhorn(epsilon=epsilon, rho=0.3, **path)
    together = solver(cost)
    for k in (0, 1, 7, 39):
        alone = solver(cost[k : k + 1])
        assert alone.iterations[0] == together.iterations[k]
        assert alone.status[0] == together.status[k]
        assert (alone.plan()[0] - together.plan()[k]).abs().max() < 1e-6


@pytest.mark.parametrize("path", PATHS[:2], ids=NAMES[:2])
def test_a_hard_side_gets_its_mass_in_single_precision(path):
    cost = cosine_problems(20, 49, 4, dtype=torch.float32)
    found = Sinkhorn(epsilon=0.1, rho_a=INF, rho_b=0.1, **path)(cost)
    assert (found.plan().sum(2) - 1 / 49).abs().sum(1).max() < 1e-6
    assert (found.mass - 1).abs().max() < 1e-6


@pytest.mark.parametrize("path", PATHS[:2], ids=NAMES[:2])
@pytest.mark.parametrize(("rows", "columns"), [(50, 4), (197, 8)])
def test_newton_stays_within_its_bound_of_steps(path, rows, columns):
    cost = cosine_problems(64, rows, columns)
    for epsilon, bound in ((0.1, 6), (0.05, 6), (0.02, 6), (0.01, 16)):
        for rho in (0.1, 1.0, 10.0, 100.0):
            found = Sinkhorn(epsilon=epsilon, rho=rho, **path)(cost)
            assert (found.status == Status.CONVERGED).all()
            assert found.iterations.max() <= bound, (epsilon, rho)


@pytest.mark.parametrize("path", PATHS[:2], ids=NAMES[:2])
@pytest.mark.parametrize("epsilon", [0.005, 0.01, 0.03])
def test_single_precision_never_ends_in_nan(path, epsilon):
    cost = 2 * torch.rand(64, 40, 6, generator=torch.Generator().manual_seed(0))
    cost[:8] = cost[:8].round()
    for rho_a, rho_b in [*PENALTIES, (1e-3, 1e-3), (1e4, 1e4), (1e-3, INF), (1e6, 1e-3)]:
        found = Sinkhorn(epsilon=epsilon, rho_a=rho_a, rho_b=rho_b, **path)(cost)
        assert torch.isfinite(found.plan()).all()
        assert torch.isfinite(found.value).all()
        assert (found.status <= Status.STALLED).all(), (rho_a, rho_b)
        exact = Sinkhorn(epsilon=epsilon, rho_a=rho_a, rho_b=rho_b, tol=1e-10, backend="torch")(cost.double())
        assert (found.plan() - exact.plan()).abs().sum((1, 2)).max() < 2e-4


def test_single_precision_sweeps_agree_with_newton_at_small_epsilon():
    cost = cosine_problems(8, 49, 4, dtype=torch.float32)
    for epsilon in (0.1, 0.01, 0.005):
        common = {"epsilon": epsilon, "rho_a": INF, "rho_b": epsilon}
        plans = [Sinkhorn(**common, **path)(cost).plan() for path in PATHS]
        for plan in plans:
            assert torch.isfinite(plan).all()
            assert (plan - plans[0]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    cost = cosine_problems(4, 20, 4, dtype=torch.float32).to(dtype)
    solver = Sinkhorn(epsilon=0.1, rho=1.0)
    found = solver(cost)
    assert found.plan().dtype == torch.float32
    assert torch.equal(found.plan(), solver(cost.float()).plan())
