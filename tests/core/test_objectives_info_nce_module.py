import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from core_problems import image_batch, small_encoder

from medalign_core.objectives.info_nce.module import info_nce, retrieval_accuracy
from medalign_core.objectives.info_nce.settings import InfoNCE


def draw(rows: int, size: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everyone(rows: int) -> torch.Tensor:
    return torch.ones(rows, dtype=torch.bool)


def reference(view_s: np.ndarray, view_t: np.ndarray, temperature: float) -> float:
    """NT-Xent by loops over all views."""
    views = np.concatenate([view_s, view_t])
    views = views / np.linalg.norm(views, axis=1, keepdims=True)
    rows, terms = len(view_s), []
    for i in range(2 * rows):
        weights = {j: math.exp(views[i] @ views[j] / temperature) for j in range(2 * rows) if j != i}
        terms.append(-math.log(weights[(i + rows) % (2 * rows)] / sum(weights.values())))
    return float(np.mean(terms))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_equals_the_loops(temperature):
    s, t = draw(6), draw(6, seed=1)
    expected = reference(s.numpy(), t.numpy(), temperature)
    assert info_nce(s, t, everyone(6), temperature=temperature).item() == pytest.approx(expected)


def test_a_collapsed_encoder_pays_the_logarithm_of_its_candidates():
    collapsed = torch.ones(8, 4)
    assert info_nce(collapsed, collapsed, everyone(8), temperature=0.1).item() == pytest.approx(math.log(15))
    assert retrieval_accuracy(collapsed, collapsed, everyone(8)) == 0


def test_orthogonal_images_pay_what_the_closed_form_says():
    units = torch.eye(6)
    expected = math.log(1 + 10 * math.exp(-1 / 0.5))  # one positive at cosine 1, ten negatives at 0
    assert info_nce(units, units, everyone(6), temperature=0.5).item() == pytest.approx(expected)
    assert retrieval_accuracy(units, units, everyone(6)) == 1


def test_views_may_be_swapped_and_scaled():
    s, t = draw(6), draw(6, seed=1)
    loss = info_nce(s, t, everyone(6), temperature=0.2)
    torch.testing.assert_close(info_nce(t, 7 * s, everyone(6), temperature=0.2), loss)


def test_holes_are_neither_anchors_nor_negatives():
    s, t = draw(6), draw(6, seed=1)
    valid = torch.tensor([True, False, True, True, False, True])
    for fill in (0.0, 100.0):
        s[~valid], t[~valid] = fill, -fill
        whole = info_nce(s, t, valid, temperature=0.2)
        torch.testing.assert_close(whole, info_nce(s[valid], t[valid], everyone(4), temperature=0.2))
        assert retrieval_accuracy(s, t, valid) == retrieval_accuracy(s[valid], t[valid], everyone(4))


def test_without_a_valid_row_the_loss_is_zero_with_a_gradient_of_zeros():
    s = draw(4).requires_grad_()
    loss = info_nce(s, draw(4, seed=1), torch.zeros(4, dtype=torch.bool), temperature=0.1)
    loss.backward()
    assert loss == 0
    assert (s.grad == 0).all()


def test_the_loss_has_the_right_gradient_with_and_without_holes():
    s, t = draw(4).requires_grad_(), draw(4, seed=1).requires_grad_()
    for valid in (everyone(4), torch.tensor([True, True, False, True])):
        assert torch.autograd.gradcheck(lambda a, b, v=valid: info_nce(a, b, v, temperature=0.5), (s, t))


def test_the_module_gives_a_loss_with_gradients_and_its_stats():
    torch.manual_seed(0)
    module = InfoNCE(projection_size=16).build(small_encoder())
    loss, stats = module(image_batch(8))
    loss.backward()
    assert set(stats) == {"matching_accuracy", "embedding_std"}
    assert all(value.shape == () and not value.requires_grad for value in stats.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert module(image_batch(8))[0] == loss


def test_the_module_learns():
    torch.manual_seed(0)
    module = InfoNCE(projection_size=16).build(small_encoder())
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    batch = image_batch(12, noise=100)
    losses = []
    for _ in range(25):
        loss, stats = module(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert stats["matching_accuracy"] == 1


def test_what_is_in_a_hole_changes_nothing_and_all_holes_give_zero():
    torch.manual_seed(0)
    module = InfoNCE(projection_size=16).build(small_encoder())
    batch = image_batch(6)
    valid = torch.tensor([True, True, False, True, True, False])
    results = []
    for fill in (0, 255):
        images = batch.images.clone()
        images[~valid] = fill
        results.append(module(replace(batch, images=images, valid=valid)))
    assert results[0] == results[1]
    module.zero_grad()
    loss, _ = module(replace(batch, valid=torch.zeros(6, dtype=torch.bool)))
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters())


def test_half_precision_modules_compare_in_single_precision():
    torch.manual_seed(0)
    module = InfoNCE(projection_size=16).build(small_encoder()).to(torch.bfloat16)
    loss, _ = module(image_batch(8))
    loss.backward()
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
        ({"projection_size": 0}, "projection_size and projector_depth must be >= 1"),
        ({"projector_norm": "layer"}, "projector_norm must be 'none' or 'batch', got 'layer'"),
    ],
)
def test_settings_that_cannot_work_raise_with_their_value(change, message):
    with pytest.raises(ValueError, match=message):
        InfoNCE(**change)


def test_a_micro_batch_needs_negatives():
    with pytest.raises(ValueError, match="micro_batch must be >= 2"):
        InfoNCE().validate(1)
