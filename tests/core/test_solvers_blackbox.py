import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import bellman_ford

from medalign_core.solvers.assignment import assign
from medalign_core.solvers.blackbox import blackbox, imle
from medalign_core.solvers.noise import Noise

NODES = 9  # a grid of 3 x 3, edges to the right and down
EDGES = [(n, n + 1) for n in range(NODES) if n % 3 < 2] + [(n, n + 3) for n in range(6)]


def shortest_path(costs: np.ndarray) -> np.ndarray:
    """Indicators of the edges of the cheapest way from corner to corner."""
    tails, heads = np.array(EDGES).T
    graph = csr_array((costs, (tails, heads)), shape=(NODES, NODES))
    _, before = bellman_ford(graph, indices=0, return_predecessors=True)
    used, node = np.zeros(len(EDGES)), NODES - 1
    while node:
        used[EDGES.index((int(before[node]), node))] = 1.0
        node = int(before[node])
    return used


def best_assignment(affinity: np.ndarray) -> np.ndarray:
    return np.eye(affinity.shape[-1])[assign(affinity)]


def choose_one(scores: np.ndarray) -> np.ndarray:
    """One-hot argmax along the last axis."""
    return np.eye(scores.shape[-1])[scores.argmax(axis=-1)]


def costs(seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).uniform(1.0, 3.0, len(EDGES)), requires_grad=True)


@pytest.mark.parametrize("seed", range(6))
def test_the_published_gradient_is_that_of_the_piecewise_affine_interpolation(seed):
    """f(w) = L(y(w')) - <w, y(w) - y(w')> / lambda, w' = w + lambda dL/dy, has it as its exact gradient."""
    leaf, strength = costs(seed), 2.0
    slope = np.random.default_rng(seed + 50).normal(size=len(EDGES))
    solution = blackbox(shortest_path, leaf, strength=strength, sense="min", estimator="compat")
    (solution * torch.tensor(slope)).sum().backward()

    def interpolation(w: np.ndarray) -> float:
        near, far = shortest_path(w), shortest_path(w + strength * slope)
        return float(slope @ far - w @ (near - far) / strength)

    w, step = leaf.detach().numpy(), 1e-6
    numeric = [(interpolation(w + step * e) - interpolation(w - step * e)) / (2 * step) for e in np.eye(len(EDGES))]
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, atol=1e-8)


def test_shortest_paths_are_learned_from_examples():
    truth = costs(7).detach()
    target = torch.tensor(shortest_path(truth.numpy()))
    learned = torch.full((len(EDGES),), 2.0, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(20):
        found = blackbox(shortest_path, learned, strength=3.0, sense="min")
        loss = (found * (1 - target) + (1 - found) * target).sum()
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, learned)
        learned = (learned - 0.2 * slope).clamp(min=0.1).detach().requires_grad_()
    assert losses[0] > 0
    assert losses[-1] == 0


def test_an_assignment_of_two_has_the_gradient_of_its_closed_form():
    theta = torch.tensor([[0.2, 0.5], [0.1, 0.0]], dtype=torch.float64, requires_grad=True)  # identity is 0.4 behind
    away = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)  # dL/dv of a loss that wants the identity
    for strength, moves in ((0.1, False), (0.3, True), (5.0, True)):  # the swap loses 2 lambda
        found = blackbox(lambda t: best_assignment(t[None])[0], theta, strength=strength)
        assert found.tolist() == [[0.0, 1.0], [1.0, 0.0]]
        (slope,) = torch.autograd.grad((found * away).sum(), theta)
        expected = (2 * away - 1) / strength if moves else torch.zeros_like(away)
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("scale", [0.1, 1.0, 65536.0])
@pytest.mark.parametrize("sense", ["max", "min"])
def test_the_gradient_is_homogeneous_in_what_comes_in(scale, sense):
    theta = torch.tensor(np.random.default_rng(0).normal(size=(3, 5, 5)), requires_grad=True)
    away = torch.tensor(np.random.default_rng(1).normal(size=(3, 5, 5)))
    solve = best_assignment if sense == "max" else (lambda t: best_assignment(-t))
    slopes = []
    for c in (1.0, scale):
        found = blackbox(solve, theta, strength=1.0, sense=sense, batch_axes=1)
        slopes.append(torch.autograd.grad(c * (found * away).sum(), theta)[0] / c)
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-12, atol=0)


def test_as_published_it_is_not_homogeneous():
    theta = torch.tensor(np.random.default_rng(0).normal(size=(3, 5, 5)), requires_grad=True)
    away = torch.tensor(np.random.default_rng(1).normal(size=(3, 5, 5)))
    slopes = []
    for c in (1000.0, 65536.0):
        found = blackbox(best_assignment, theta, strength=1.0, estimator="compat", batch_axes=1)
        slopes.append(torch.autograd.grad(c * (found * away).sum(), theta)[0])
    assert slopes[0].abs().max() > 0
    assert (slopes[0] == slopes[1]).all()


def test_problems_of_a_batch_do_not_touch_each_other():
    theta = torch.tensor(np.random.default_rng(0).normal(size=(3, 5, 5)), requires_grad=True)
    away = torch.tensor(np.random.default_rng(1).normal(size=(3, 5, 5)))
    away[2] *= 1e6
    away[1] = 0.0
    found = blackbox(best_assignment, theta, strength=1.0, batch_axes=1)
    (together,) = torch.autograd.grad((found * away).sum(), theta)
    assert (together[1] == 0).all()
    for b in (0, 2):
        alone = blackbox(lambda t: best_assignment(t[None])[0], theta[b], strength=1.0)
        (slope,) = torch.autograd.grad((alone * away[b]).sum(), theta)
        torch.testing.assert_close(together[b], slope[b])


def test_with_gumbel_noise_solutions_and_gradients_average_to_those_of_a_softmax():
    """Perturb-and-MAP over one-hot vectors samples the softmax; the mean estimate is a difference of two of them."""
    count, strength = 40_000, 0.5
    theta = torch.tensor([0.3, -0.2, 1.0, 0.1], dtype=torch.float64, requires_grad=True)
    away = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    # the batch, not `samples`, holds the draws here: one vectorised call
    found = imle(choose_one, theta.expand(count, 4), Noise(), draws, strength=strength, batch_axes=1)[0]
    (slope,) = torch.autograd.grad((found * away).sum(dim=1).mean(), theta)
    probability = torch.softmax(theta.detach(), dim=0)
    np.testing.assert_allclose(found.detach().mean(dim=0), probability, atol=0.01)
    moved = torch.softmax(theta.detach() - strength * away / 2.0, dim=0)
    np.testing.assert_allclose(slope, 2.0 / strength * (probability - moved), atol=0.02)


def test_several_samples_are_solved_one_by_one_and_averaged():
    theta = torch.tensor(np.random.default_rng(0).normal(size=(5, 5)), requires_grad=True)
    away = torch.tensor(np.random.default_rng(1).normal(size=(5, 5)))

    def solve(one: np.ndarray) -> np.ndarray:
        assert one.shape == (5, 5)
        return best_assignment(one[None])[0]

    found = imle(solve, theta, Noise(scale=0.5), torch.Generator().manual_seed(3), strength=1.0, samples=6)
    (mean,) = torch.autograd.grad((found * away).sum(dim=(1, 2)).mean(), theta)
    noise = Noise(scale=0.5).draw((6, 5, 5), torch.Generator().manual_seed(3))
    slopes = []
    for drawn in noise:
        one = blackbox(solve, theta + torch.tensor(drawn), strength=1.0)
        slopes.append(torch.autograd.grad((one * away).sum(), theta)[0])
    assert found.shape == (6, 5, 5)
    torch.testing.assert_close(mean, torch.stack(slopes).mean(dim=0))


def test_costs_are_perturbed_downwards():
    noise = Noise(scale=0.7)
    found = imle(shortest_path, costs(), noise, torch.Generator().manual_seed(0), strength=1.0, samples=2, sense="min")
    drawn = noise.draw((2, len(EDGES)), torch.Generator().manual_seed(0))
    expected = [shortest_path(costs().detach().numpy() - d) for d in drawn]
    assert (found.detach().numpy() == np.stack(expected)).all()
    assert (found[0] != found[1]).any()


def test_single_precision_parameters_keep_their_type():
    theta = torch.randn(4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = blackbox(choose_one, theta, strength=5.0)
    (slope,) = torch.autograd.grad((found * torch.arange(4.0)).sum(), theta)
    assert found.dtype == slope.dtype == torch.float32


def test_what_cannot_work_raises():
    with pytest.raises(ValueError, match=r"strength \(lambda\) must be > 0 and finite, got -1"):
        blackbox(choose_one, torch.zeros(3), strength=-1.0)
    with pytest.raises(ValueError, match=r"must return the parameters' shape \(3,\), got \(1,\)"):
        blackbox(lambda t: t[:1], torch.zeros(3), strength=1.0)
    with pytest.raises(ValueError, match="samples must be >= 1, got 0"):
        imle(choose_one, torch.zeros(3), Noise(), torch.Generator(), strength=1.0, samples=0)
