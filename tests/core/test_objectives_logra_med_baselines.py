import itertools
import math

import numpy as np
import ot
import pytest
import torch
from core_problems import cosine_reference
from torch import Tensor

from medalign_core.objectives.info_nce.module import info_nce
from medalign_core.objectives.logra_med.baselines.info_nce import clip_loss
from medalign_core.objectives.logra_med.baselines.siglip import siglip_loss
from medalign_core.objectives.logra_med.baselines.transport import transport_loss
from medalign_core.objectives.logra_med.baselines.vlap import vlap_loss
from medalign_core.solvers.sinkhorn import Sinkhorn

ROWS, WORDS = 6, 9
SOLVER = Sinkhorn(epsilon=0.1, gradient="implicit", tol=1e-10)


def draw(rows: int = ROWS, size: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everyone(rows: int = ROWS) -> Tensor:
    return torch.ones(rows, dtype=torch.bool)


def vlap(s: Tensor, t: Tensor, valid: Tensor) -> Tensor:
    words, counts = draw(WORDS, seed=7), torch.arange(1, WORDS + 1)
    return vlap_loss(s, t, valid, words=words, counts=counts, temperature=0.5, epsilon=0.1)


LOSSES = {
    "clip": lambda s, t, valid: clip_loss(s, t, valid, temperature=0.5),
    "siglip": lambda s, t, valid: siglip_loss(s, t, valid, log_scale=0.7, bias=-1.0),
    "transport": lambda s, t, valid: transport_loss(s, t, valid, solver=SOLVER, loss="value"),
    "identity": lambda s, t, valid: transport_loss(s, t, valid, solver=SOLVER, loss="identity"),
    "vlap": vlap,
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


def test_the_order_of_the_samples_and_the_lengths_of_the_nodes_do_not_matter(loss):
    s, t, order = draw(), draw(seed=1), torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    expected = loss(s, t, everyone())
    torch.testing.assert_close(loss(s[order], t[order], everyone()), expected)
    torch.testing.assert_close(loss(3 * s, t / 7, everyone()), expected)
    torch.testing.assert_close(loss(t, s, everyone()), expected)


def test_rows_left_out_are_as_good_as_absent(loss):
    s, t, valid = draw(), draw(seed=1), torch.tensor([True, False, True, True, False, True])
    torch.testing.assert_close(loss(s, t, valid), loss(s[valid], t[valid], everyone(4)))


def test_without_a_valid_row_the_loss_is_zero_with_a_gradient_of_zeros(loss):
    s = draw().requires_grad_()
    value = loss(s, draw(seed=1), ~everyone())
    value.backward()
    assert value == 0
    assert (s.grad == 0).all()


def test_a_small_step_down_the_gradient_lowers_the_loss(loss):
    s, t = draw().requires_grad_(), draw(seed=1)
    value = loss(s, t, everyone())
    (slope,) = torch.autograd.grad(value, s)
    assert loss((s - 1e-3 * slope / slope.norm()).detach(), t, everyone()) < value


@pytest.mark.parametrize("name", ["clip", "siglip", "transport", "identity"])
def test_the_loss_has_the_right_gradient(name):
    s, t = draw(4).requires_grad_(), draw(4, seed=1).requires_grad_()
    for valid in (everyone(4), torch.tensor([True, True, False, True])):
        assert torch.autograd.gradcheck(lambda a, b, v=valid: LOSSES[name](a, b, v), (s, t), rtol=1e-4, atol=1e-7)


def test_clip_equals_the_loops_and_unlike_simclr_knows_no_negatives_of_the_own_set():
    s, t = draw(), draw(seed=1)
    weights = np.exp(cosine_reference(s.numpy(), t.numpy()) / 0.5)
    terms = [-math.log(w[i, i] / w[i].sum()) for w in (weights, weights.T) for i in range(ROWS)]
    assert clip_loss(s, t, everyone(), temperature=0.5).item() == pytest.approx(np.mean(terms))
    assert clip_loss(s, t, everyone(), temperature=0.5) < info_nce(s, t, everyone(), temperature=0.5)
    same = torch.ones(8, 3)
    assert clip_loss(same, same, everyone(8), temperature=0.07).item() == pytest.approx(math.log(8))


def test_siglip_equals_the_loops():
    s, t = draw(), draw(seed=1)
    cosine = cosine_reference(s.numpy(), t.numpy())
    total = 0.0
    for i, j in itertools.product(range(ROWS), repeat=2):
        logit = math.exp(0.7) * cosine[i, j] - 1.0
        total += math.log1p(math.exp(-logit if i == j else logit))
    assert siglip_loss(s, t, everyone(), log_scale=0.7, bias=-1.0).item() == pytest.approx(total / ROWS)


def test_the_transport_value_is_that_of_pot_and_does_not_see_a_permutation_that_the_identity_loss_sees():
    s, t = draw(), draw(seed=1)
    cost, weights = 1 - cosine_reference(s.numpy(), t.numpy()), np.full(ROWS, 1 / ROWS)
    plan = ot.sinkhorn(weights, weights, cost, 0.1, stopThr=1e-12, numItermax=10000)
    entropy = (plan * np.log(plan * ROWS**2) - plan).sum() + 1
    value = transport_loss(s, t, everyone(), solver=SOLVER, loss="value")
    assert value.item() == pytest.approx((plan * cost).sum() + 0.1 * entropy, rel=1e-6)
    kept = transport_loss(s, t, everyone(), solver=SOLVER, loss="identity")
    assert kept.item() == pytest.approx(-np.log(ROWS * np.diag(plan)).mean(), rel=1e-5)
    shifted = t.roll(1, dims=0)
    torch.testing.assert_close(transport_loss(s, shifted, everyone(), solver=SOLVER, loss="value"), value)
    assert abs(transport_loss(s, shifted, everyone(), solver=SOLVER, loss="identity") - kept) > 0.1


def test_vlap_predicts_the_assignment_of_the_other_set():
    s, t, words = draw(), draw(seed=1), draw(WORDS, seed=7)
    counts = np.arange(1, WORDS + 1)
    terms = []
    for seen, hidden in ((s, t), (t, s)):
        cost = 1 - cosine_reference(hidden.numpy(), words.numpy())
        plan = ot.sinkhorn(np.full(ROWS, 1 / ROWS), counts / counts.sum(), cost, 0.1, stopThr=1e-12, numItermax=20000)
        logits = cosine_reference(seen.numpy(), words.numpy()) / 0.5
        predicted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        terms.append(-(ROWS * plan * predicted).sum(axis=1).mean())
    assert vlap(s, t, everyone()).item() == pytest.approx(np.mean(terms), rel=1e-3)


def test_vlaps_gradient_goes_through_the_prediction_alone():
    s = draw().requires_grad_()
    words = draw(WORDS, seed=7).requires_grad_()
    vlap_loss(
        s, draw(seed=1), everyone(), words=words, counts=torch.ones(WORDS), temperature=0.5, epsilon=0.1
    ).backward()
    assert words.grad is None
    assert (s.grad != 0).any()
