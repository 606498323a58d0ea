"""Each loss against its definition, written again in NumPy by loops over valid rows; gradients; what holes do."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from medalign_core.objectives.self_supervised.barlow_twins import barlow_twins_loss
from medalign_core.objectives.self_supervised.byol import byol_loss
from medalign_core.objectives.self_supervised.moco import moco_loss
from medalign_core.objectives.self_supervised.swav import balanced_codes, swav_loss
from medalign_core.objectives.self_supervised.vicreg import vicreg_loss
from medalign_core.objectives.self_supervised.vicregl import local_vicreg_loss

WEIGHTS = (25.0, 15.0, 2.0)
HOLES = torch.tensor([True, True, False, True, True, False, True])
QUEUE = torch.nn.functional.normalize(
    torch.randn(9, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
)
LOSSES = {
    "barlow_twins": partial(barlow_twins_loss, redundancy=0.3, scale=0.1),
    "vicreg": partial(vicreg_loss, weights=WEIGHTS),
    "moco": lambda s, t, valid: moco_loss(s, t, QUEUE, valid, temperature=0.5),
    "byol": byol_loss,
    "swav": lambda s, t, valid: swav_loss(s, balanced_codes(t, valid, epsilon=0.5, sweeps=3), valid, temperature=0.5),
}


def draw(rows: int = 7, size: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def barlow_reference(s: np.ndarray, t: np.ndarray, redundancy: float) -> float:
    s, t = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (s, t))
    total = 0.0
    for i in range(s.shape[1]):
        for j in range(t.shape[1]):
            c = float(np.mean(s[:, i] * t[:, j]))
            total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total


def vicreg_reference(s: np.ndarray, t: np.ndarray, weights: tuple[float, float, float]) -> float:
    def hinge(z: np.ndarray) -> float:
        return float(np.mean([max(0.0, 1 - math.sqrt(np.var(column, ddof=1) + 1e-4)) for column in z.T]))

    def joint(z: np.ndarray) -> float:
        table = np.cov(z, rowvar=False)
        return float((table**2).sum() - (np.diag(table) ** 2).sum()) / z.shape[1]

    invariance, variance, covariance = weights
    distance = float(np.mean((s - t) ** 2))
    return invariance * distance + variance * (hinge(s) + hinge(t)) / 2 + covariance * (joint(s) + joint(t))


def moco_reference(s: np.ndarray, t: np.ndarray, queue: np.ndarray, temperature: float) -> float:
    terms = []
    for q, k in zip(s, t, strict=True):
        q, k = q / np.linalg.norm(q), k / np.linalg.norm(k)
        own = math.exp(q @ k / temperature)
        terms.append(-math.log(own / (own + sum(math.exp(q @ n / temperature) for n in queue))))
    return float(np.mean(terms))


def byol_reference(s: np.ndarray, t: np.ndarray) -> float:
    units = [(p / np.linalg.norm(p), z / np.linalg.norm(z)) for p, z in zip(s, t, strict=True)]
    return float(np.mean([((p - z) ** 2).sum() for p, z in units]))


def codes_reference(scores: np.ndarray, epsilon: float, sweeps: int) -> np.ndarray:
    q = np.exp(scores / epsilon)
    for _ in range(sweeps):
        q = q / q.sum(0, keepdims=True) / q.shape[1]
        q = q / q.sum(1, keepdims=True) / q.shape[0]
    return q * len(q)


def swav_reference(s: np.ndarray, t: np.ndarray) -> float:
    codes = codes_reference(t, 0.5, 3)
    shares = np.exp(s / 0.5) / np.exp(s / 0.5).sum(1, keepdims=True)
    return float(-(codes * np.log(shares)).sum(1).mean())


REFERENCES = {
    "barlow_twins": lambda s, t: 0.1 * barlow_reference(s, t, 0.3),
    "vicreg": lambda s, t: vicreg_reference(s, t, WEIGHTS),
    "moco": lambda s, t: moco_reference(s, t, QUEUE.numpy(), 0.5),
    "byol": byol_reference,
    "swav": swav_reference,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_its_definition_over_the_valid_rows_whatever_is_in_the_others(name: str) -> None:
    s, t = draw(), draw(seed=1)
    everyone = torch.ones(7, dtype=torch.bool)
    assert LOSSES[name](s, t, everyone).item() == pytest.approx(REFERENCES[name](s.numpy(), t.numpy()))
    expected = REFERENCES[name](s[HOLES].numpy(), t[HOLES].numpy())
    for fill in (0.0, 100.0):
        s[~HOLES], t[~HOLES] = fill, -fill
        assert LOSSES[name](s, t, HOLES).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("valid", [torch.ones(7, dtype=torch.bool), HOLES], ids=["whole", "holes"])
def test_the_loss_has_the_gradient_of_finite_differences(name: str, valid: torch.Tensor) -> None:
    t = draw(seed=1)
    both = name in ("barlow_twins", "vicreg")  # of the others the second side is a constant
    inputs = (draw().requires_grad_(), t.requires_grad_(both))
    assert torch.autograd.gradcheck(lambda a, b: LOSSES[name](a, b, valid), inputs)
    if not both:
        other = draw(seed=1).requires_grad_()
        LOSSES[name](draw().requires_grad_(), other, valid).backward()
        assert other.grad is None


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_valid_row_the_loss_is_zero_with_a_gradient_of_zeros(name: str) -> None:
    s = draw().requires_grad_()
    loss = LOSSES[name](s, draw(seed=1), torch.zeros(7, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert s.grad is not None
    assert (s.grad == 0).all()


def test_barlow_twins_is_zero_where_features_agree_and_are_uncorrelated() -> None:
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    everyone = torch.ones(4, dtype=torch.bool)
    assert barlow_twins_loss(signs, 7 * signs, everyone, redundancy=1.0).item() == pytest.approx(0, abs=1e-9)
    collapsed = torch.ones(4, 2, dtype=torch.float64)
    assert barlow_twins_loss(collapsed, collapsed, everyone, redundancy=1.0) == 2  # one for each feature


def test_vicreg_of_a_collapsed_encoder_is_the_hinge_alone() -> None:
    collapsed = torch.ones(6, 4, dtype=torch.float64)
    loss = vicreg_loss(collapsed, collapsed, torch.ones(6, dtype=torch.bool), weights=(25.0, 25.0, 1.0))
    assert loss.item() == pytest.approx(25 * 0.99)


def test_moco_of_equal_logits_pays_the_logarithm_of_its_candidates() -> None:
    same = torch.ones(3, 4, dtype=torch.float64)
    queue = torch.full((15, 4), 0.5, dtype=torch.float64)
    loss = moco_loss(same, same, queue, torch.ones(3, dtype=torch.bool), temperature=0.2)
    assert loss.item() == pytest.approx(math.log(16))


def test_codes_are_balanced_as_sweeps_grow_and_sharp_as_epsilon_falls() -> None:
    scores = torch.tanh(draw(rows=12, size=4))
    everyone = torch.ones(12, dtype=torch.bool)
    codes = balanced_codes(scores, everyone, epsilon=0.2, sweeps=2000)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64), atol=1e-3, rtol=0)
    flat = balanced_codes(scores, everyone, epsilon=100.0, sweeps=3)
    torch.testing.assert_close(flat, torch.full((12, 4), 0.25, dtype=torch.float64), atol=0.01, rtol=0)


def test_codes_of_identical_rows_are_uniform_so_collapse_does_not_pay() -> None:
    same = torch.tensor([[0.9, 0.1, -0.3]]).expand(6, 3)
    codes = balanced_codes(same, torch.ones(6, dtype=torch.bool), epsilon=0.05, sweeps=3)
    torch.testing.assert_close(codes, torch.full((6, 3), 1 / 3))


def local_reference(cells: list[np.ndarray], grids: list[np.ndarray], matches: int) -> float:
    """The local loss by loops: for each direction and kind, the n-th best pair of each image, then VICReg per n."""
    losses = []
    for kind in (grids, cells):
        for own, other in ((0, 1), (1, 0)):
            pairs = []
            for image in range(len(cells[0])):
                found = []
                for p, place in enumerate(kind[own][image]):
                    far = np.linalg.norm(kind[other][image] - place, axis=1)
                    found.append((far.min(), p, int(far.argmin())))
                found.sort(key=lambda entry: entry[:2])
                pairs.append([(cells[own][image][p], cells[other][image][q]) for _, p, q in found[:matches]])
            slots = [
                vicreg_reference(
                    np.stack([image[n][0] for image in pairs]), np.stack([i[n][1] for i in pairs]), WEIGHTS
                )
                for n in range(len(pairs[0]))
            ]
            losses.append(np.mean(slots))
    return float(np.mean(losses))


@pytest.mark.parametrize("matches", [2, 50])
def test_the_local_loss_is_its_definition_by_loops(matches: int) -> None:
    draws = np.random.default_rng(0)
    cells = [draws.normal(size=(5, count, 3)) for count in (6, 4)]
    grids = [draws.uniform(size=(5, count, 2)) for count in (6, 4)]
    given = [tuple(torch.from_numpy(part) for part in side) for side in (cells, grids)]
    everyone = torch.ones(5, dtype=torch.bool)
    found = local_vicreg_loss(*given, everyone, matches=matches, weights=WEIGHTS)
    assert found.item() == pytest.approx(local_reference(cells, grids, matches))


def test_the_local_loss_has_the_gradient_of_finite_differences() -> None:
    draws = torch.Generator().manual_seed(0)
    cells = [torch.randn(4, count, 3, generator=draws, dtype=torch.float64).requires_grad_() for count in (4, 3)]
    grids = tuple(torch.rand(4, count, 2, generator=draws, dtype=torch.float64) for count in (4, 3))
    valid = torch.tensor([True, True, False, True])
    assert torch.autograd.gradcheck(
        lambda s, t: local_vicreg_loss((s, t), grids, valid, matches=2, weights=WEIGHTS), cells
    )
