"""Batches, the rate, and training of a few-shot method."""

import math

import pytest
import torch

from medalign.errors import NonFiniteError
from medalign.few_shot.fitting import WATCHED, TrainViews, batches, fit, is_watched, predict, rate
from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.contract import FewShotMethod
from medalign_core.objectives.few_shot.loss import classify, read_views
from medalign_core.objectives.few_shot.schedule import Schedule


def support(images: int = 10, views: int = 4) -> TrainViews:
    """Tokens whose value names image and view: image + view / 10."""
    number = torch.arange(images)[:, None] + torch.arange(views) / 10
    return TrainViews(tokens=number[:, :, None, None], pooled=number[:, :, None], labels=torch.arange(images) % 2)


class Linear(FewShotMethod):
    """Two logits of a one-dimensional feature."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.1], [-0.1]]))

    def logits(self, features: VisualTokens):
        return features.pooled @ self.weight.T

    def forward(self, batch):
        features, labels, valid = read_views(batch, "samples")
        return classify(self.logits(features), labels, valid)


def test_an_epoch_has_every_image_once():
    seen = torch.cat([b.pooled[:, 0, 0].floor() for b in batches(support(), size=4, views=1, epoch=0, seed=0)])
    assert sorted(seen.tolist()) == list(range(10))


@pytest.mark.parametrize("images", [1, 2])
def test_a_support_smaller_than_a_batch_is_one_batch_and_not_none(images):
    # an early few-shot loader dropped the last, incomplete batch: at 1 and 2 shots it trained on nothing
    found = list(batches(support(images), size=32, views=1, epoch=0, seed=0))
    assert [len(b.labels) for b in found] == [images]


def test_views_of_an_image_are_distinct_and_change_with_the_epoch():
    first, second = (
        {
            int(x[0]): tuple(sorted(x.tolist()))
            for b in batches(support(), size=4, views=3, epoch=e, seed=0)
            for x in b.pooled[..., 0]
        }
        for e in (0, 1)
    )
    assert all(len(set(values)) == 3 for values in first.values())
    assert first != second
    again = {
        int(x[0]): tuple(sorted(x.tolist()))
        for b in batches(support(), size=3, views=3, epoch=0, seed=0)
        for x in b.pooled[..., 0]
    }
    assert again == first  # not keyed by the batch


def test_keys_differ_between_batches_and_epochs():
    keys = [b.key for epoch in (0, 1) for b in batches(support(), size=4, views=1, epoch=epoch, seed=5)]
    assert len(set(keys)) == len(keys) == 6


def test_the_rate_is_constant_in_warm_up_and_then_half_a_cosine():
    schedule = Schedule(learning_rate=2.0, warmup_epochs=1, warmup_rate=1e-5)
    assert rate(schedule, 0, 50) == 1e-5
    for epoch in (1, 10, 49):
        assert rate(schedule, epoch, 50) == pytest.approx(1 + math.cos(math.pi * epoch / 50))
    assert rate(schedule, 0, 1) == 2.0  # a training as short as its warm-up would learn nothing


def test_training_lowers_the_loss_and_is_the_same_twice():
    schedule = Schedule(learning_rate=0.1, weight_decay=0.0, batch=4)
    views = support()
    views = TrainViews(
        tokens=views.tokens,
        pooled=torch.where(views.labels == 0, 1.0, -1.0)[:, None, None].expand(-1, 4, 1),
        labels=views.labels,
    )
    runs = []
    for _ in range(2):
        method = Linear()
        runs.append((fit(method, views, schedule, epochs=20, views=1, seed=0), method.weight.detach().clone()))
    (first, weight), (second, same) = runs
    assert first.losses == second.losses
    assert torch.equal(weight, same)
    assert first.losses[-1] < first.losses[0] / 2
    assert first.steps == 20 * 3


def test_a_watch_sees_the_first_and_the_last_epoch_and_changes_nothing():
    schedule = Schedule(learning_rate=0.1, batch=4)
    plain, watched = Linear(), Linear()
    fit(plain, support(), schedule, epochs=60, views=1, seed=0)
    done = fit(watched, support(), schedule, epochs=60, views=1, seed=0, watch=lambda m: {"w": m.weight[0, 0].item()})
    assert torch.equal(plain.weight, watched.weight)
    epochs = [line["epoch"] for line in done.health]
    assert epochs[0] == 0
    assert epochs[-1] == 59
    assert len(epochs) <= WATCHED + 1
    assert all(is_watched(epoch, 3) for epoch in range(3))


def test_a_loss_that_is_not_finite_ends_training():
    views = support()
    broken = TrainViews(tokens=views.tokens, pooled=views.pooled * torch.nan, labels=views.labels)
    with pytest.raises(NonFiniteError, match="epoch 0: the loss is nan"):
        fit(Linear(), broken, Schedule(batch=4), epochs=1, views=1, seed=0)


def test_prediction_does_not_depend_on_the_chunk():
    method, views = Linear(), support()
    tokens, pooled = views.tokens[:, 0], views.pooled[:, 0]
    assert torch.allclose(predict(method, tokens, pooled, chunk=3), predict(method, tokens, pooled))
