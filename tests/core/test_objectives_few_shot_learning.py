import pytest
import torch
from few_shot_cases import batch_of, class_texts, tiny_clip, train

from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.contract import ClassTexts, Support
from medalign_core.objectives.few_shot.coop import TCP, CoOp
from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.dude.settings import Dude
from medalign_core.objectives.few_shot.dude_adapter.settings import DudeAdapter
from medalign_core.objectives.few_shot.plot import PLOT
from medalign_core.objectives.few_shot.tip_adapter import TipAdapterF
from medalign_core.ops.draws import generator

CLASSES = 4


def world(per_class: int, *, seed: int) -> tuple[VisualTokens, torch.Tensor]:
    """Images of 4 classes, 6 noisy tokens each around one of two directions of their class."""
    directions = torch.randn(CLASSES, 2, 12, generator=generator("directions"))
    draws = generator("images", seed)
    labels = torch.arange(CLASSES).repeat(per_class)
    tokens = directions[labels][:, [0, 1] * 3]
    tokens = tokens + 0.5 * torch.randn(tokens.shape, generator=draws)
    return VisualTokens(tokens, tokens.mean(1)), labels


def accuracy(method, found: VisualTokens, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return (method.eval().logits(found).argmax(1) == labels).float().mean().item()


METHODS = [
    Dude(coupling=Coupling(epsilon=0.01)),
    Dude(class_route="attn_pool", fusion="sum"),
    Dude(class_route="atoms"),
    Dude(views="token_union", coupling=Coupling(tau_a=0.9)),
    PLOT(context_length=4),
    CoOp(context_length=4),
    TCP(anchor_lambda=0.0),
]


@pytest.mark.parametrize("settings", METHODS)
def test_sixteen_images_are_learnt_by_heart_and_new_ones_recognised(settings):
    found, labels = world(4, seed=0)
    method = settings.build(tiny_clip(scale=100.0), class_texts(), seed=0).train()
    losses = train(method, batch_of(found, labels), steps=100, rate=0.05)
    assert losses[-1] < 0.05
    assert accuracy(method, *world(25, seed=1)) > 0.6  # attn_pool has 12 dimensions to attend in; the others: > 0.9


@pytest.mark.parametrize("settings", [METHODS[0], METHODS[5]])
def test_shuffled_labels_teach_nothing_about_new_images(settings):
    found, labels = world(8, seed=0)
    shuffled = torch.cat(
        [torch.arange(CLASSES).repeat(2)[torch.randperm(8, generator=generator("s", k))] for k in range(4)]
    )
    by_class = labels.argsort(stable=True)  # each true class gets every false label twice
    shuffled = torch.empty_like(labels).scatter(0, by_class, shuffled)
    method = settings.build(tiny_clip(scale=100.0), class_texts(), seed=0).train()
    train(method, batch_of(found, shuffled), steps=100, rate=0.05)
    assert 0.1 < accuracy(method, *world(50, seed=1)) < 0.4


@pytest.mark.parametrize("match", ["transport", "pooled"])
def test_the_adapter_learns_from_sentences_that_say_nothing(match):
    found, labels = world(4, seed=0)
    method = DudeAdapter(attn_share=0.5, match=match).build(tiny_clip(scale=100.0), class_texts(), seed=0)
    before = accuracy(method, found, labels)
    train(method.train(), batch_of(found, labels), steps=200, rate=0.02)
    assert accuracy(method, found, labels) > before + 0.25


def test_the_keys_of_the_cache_learn():
    found, labels = world(4, seed=0)
    method = TipAdapterF(beta=5.5).build(tiny_clip(), class_texts(), Support(features=found, labels=labels))
    losses = train(method, batch_of(found, labels), steps=300, rate=0.05)
    assert losses[-1] < 0.1 * losses[0]


def test_a_trained_sharp_plan_is_far_from_uniform_and_a_blurred_one_is_not():
    found, labels = world(4, seed=0)
    entropy = {}
    for epsilon in (0.01, 10.0):
        method = Dude(coupling=Coupling(epsilon=epsilon)).build(tiny_clip(scale=100.0), class_texts(), seed=0)
        train(method, batch_of(found, labels), steps=20, rate=0.05)
        entropy[epsilon] = method.health(found)["plan_entropy"].item()
    assert entropy[0.01] < 0.9
    assert entropy[10.0] > 0.999


@pytest.mark.parametrize("settings", [Dude(), Dude(class_route="attn_pool"), CoOp(), TCP(), PLOT()])
def test_what_was_learnt_is_saved_and_moves_to_other_classes(settings):
    found, labels = world(4, seed=0)
    model, texts = tiny_clip(), class_texts()
    method = settings.build(model, texts, seed=0)
    train(method, batch_of(found, labels), steps=3)
    again = settings.build(model, texts, seed=1)
    again.load_learnt(method.learnt())
    assert torch.equal(again.logits(found), method.logits(found))
    fewer = ClassTexts(names=texts.names[2:], template=texts.template, descriptions=texts.descriptions[2:])
    new = settings.build(model, fewer, seed=1)
    new.load_learnt(method.learnt())
    torch.testing.assert_close(new.logits(found), method.logits(found)[:, 2:], rtol=1e-4, atol=1e-4)


def test_what_another_method_learnt_is_refused():
    model = tiny_clip()
    with pytest.raises(ValueError, match="the method learns"):
        CoOp(context_length=3).build(model, class_texts()).load_learnt(CoOp().build(model, class_texts()).learnt())
