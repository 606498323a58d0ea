import pytest
import torch
from transport_problems import INF

from medalign_core.solvers.sinkhorn import Sinkhorn

SCORES = ["sim", "norm_sim", "value"]


def vectors(samples: int = 3, classes: int = 5, *, rows: int = 7, columns: int = 4, size: int = 6):
    draws = torch.Generator().manual_seed(0)
    v, g = (
        torch.randn(count, n, size, generator=draws, dtype=torch.float64)
        for count, n in ((samples, rows), (classes, columns))
    )
    return (v / v.norm(dim=2, keepdim=True)).requires_grad_(), (g / g.norm(dim=2, keepdim=True)).requires_grad_()


def score_of_all(solver: Sinkhorn, v, g, score: str, **weights):
    """The score from one call on all similarities, through autograd."""
    similarity = torch.einsum("bmd,cnd->bcmn", v, g)
    samples, classes = similarity.shape[:2]
    flat = similarity.reshape(-1, *similarity.shape[2:])
    repeated = {
        name: x[:, None].expand(-1, classes, -1).reshape(len(flat), -1)
        if name.endswith("a")
        else x[None].expand(samples, -1, -1).reshape(len(flat), -1)
        for name, x in weights.items()
    }
    found = solver(1 - flat, **repeated)
    total = (found.plan() * flat).sum((1, 2))
    mass = found.plan().sum((1, 2))
    return {"sim": total, "norm_sim": total / mass, "value": -found.value}[score].reshape(samples, classes)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("gradient", ["detach", "envelope", "implicit"])
@pytest.mark.parametrize(("rows", "columns"), [(7, 4), (3, 5)])
@pytest.mark.parametrize("backend", ["torch", "compiled"])
def test_chunks_of_classes_score_and_differentiate_like_one_call(score, gradient, rows, columns, backend):
    v, g = vectors(rows=rows, columns=columns)
    solver = Sinkhorn(epsilon=0.2, rho_a=0.5, rho_b=0.3, tol=1e-13, gradient=gradient, backend=backend)
    weight = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = score_of_all(solver, v, g, score)
    by_all = torch.autograd.grad((expected * weight).sum(), (v, g))
    for pairs in (None, 6, 1):
        found = solver.score(v, g, score=score, pairs=pairs)
        assert (found - expected).abs().max() < 1e-11
        by_chunks = torch.autograd.grad((found * weight).sum(), (v, g))
        for ours, theirs in zip(by_chunks, by_all, strict=True):
            assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_factor_changes_nothing_about_the_gradient_of_the_other(constant):
    solver, factors = Sinkhorn(epsilon=0.2, rho_b=0.3, tol=1e-12), vectors()
    expected = torch.autograd.grad(solver.score(*factors).square().sum(), factors)[1 - constant]
    held = [x.detach() if i == constant else x for i, x in enumerate(factors)]
    (found,) = torch.autograd.grad(solver.score(*held).square().sum(), factors[1 - constant])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("score", SCORES)
def test_gradcheck_of_implicit_scores(score):
    v, g = vectors(2, 2, rows=3, columns=2, size=3)
    solver = Sinkhorn(epsilon=0.4, rho_a=INF, rho_b=0.3, tol=1e-14, gradient="implicit")
    assert torch.autograd.gradcheck(lambda x, y: solver.score(x, y, score=score), (v, g), atol=1e-6)


def test_weights_and_masks_reach_their_problems():
    v, g = vectors()
    draws = torch.Generator().manual_seed(2)
    a, b = (0.1 + torch.rand(n, m, dtype=torch.float64, generator=draws) for n, m in ((3, 7), (5, 4)))
    valid_a, valid_b = torch.rand(3, 7, generator=draws) < 0.8, torch.ones(5, 4, dtype=torch.bool)
    valid_b[2, 1:] = False
    solver = Sinkhorn(epsilon=0.1, rho=1.0, tol=1e-12)
    weights = {"a": a, "b": b, "valid_a": valid_a, "valid_b": valid_b}
    found = solver.score(v, g, **weights, pairs=3)
    assert (found - score_of_all(solver, v, g, "sim", **weights)).abs().max() < 1e-11


def test_scores_of_hard_rows_are_one_minus_the_cost_moved():
    v, g = vectors()
    solver = Sinkhorn(epsilon=0.1, rho_a=INF, rho_b=0.1, tol=1e-12)
    similarity = torch.einsum("bmd,cnd->bcmn", v, g).reshape(15, 7, 4)
    plan = solver(1 - similarity).plan()
    expected = 1 - (plan * (1 - similarity)).sum((1, 2)).reshape(3, 5)
    assert (solver.score(v, g) - expected).abs().max() < 1e-10


def test_relaxed_values_rank_classes_as_their_mass_does():
    v, g = vectors()
    solver = Sinkhorn(epsilon=0.1, rho_a=0.2, rho_b=0.4, tol=1e-13)
    mass = solver(1 - torch.einsum("bmd,cnd->bcmn", v, g).reshape(15, 7, 4)).mass.reshape(3, 5)
    assert (solver.score(v, g, score="value") - 0.7 * (mass - 1)).abs().max() < 1e-10


def test_half_precision_vectors_score_in_single():
    v, g = (x.detach().to(torch.bfloat16) for x in vectors())
    found = Sinkhorn(epsilon=0.1, rho=1.0).score(v, g)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


def test_what_cannot_be_scored_says_so():
    v, g = vectors()
    for solver, words in (
        (Sinkhorn(method="exact"), "entropic"),
        (Sinkhorn(method="sinkhorn", gradient="unroll"), "unrolling"),
    ):
        with pytest.raises(ValueError, match=words):
            solver.score(v, g)
    with pytest.raises(ValueError, match="pairs"):
        Sinkhorn().score(v, g, pairs=0)
