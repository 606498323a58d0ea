"""Every text tower: padding is nothing, injection is where it says, gradients flow, use changes nothing."""

import copy

import pytest
import torch
from dual_towers import bert_model, clip_model, prompts, state_of

from medalign_core.models.dual.bert import BertTextTower
from medalign_core.models.dual.clip import ClipTextTower
from medalign_core.models.dual.encoder import Injection, TextTower
from medalign_core.models.dual.freezing import freeze


def towers() -> dict[str, TextTower]:
    clip, head = clip_model(), torch.nn.Linear(128, 24)
    built = {
        "clip": ClipTextTower(clip.text_model, clip.text_projection),
        "bert first": BertTextTower(bert_model(), head=head, pooling="first", context_length=20),
        "bert mean": BertTextTower(bert_model(), head=head, pooling="mean", context_length=20),
    }
    return {name: freeze(tower) for name, tower in built.items()}


@pytest.fixture(scope="module", params=["clip", "bert first", "bert mean"])
def tower(request) -> TextTower:
    torch.manual_seed(0)
    return towers()[request.param]


def blocks(tower: TextTower) -> torch.nn.ModuleList:
    return tower.text.encoder.layers if isinstance(tower, ClipTextTower) else tower.blocks


def inputs_of(tower: TextTower, layer: int, *args, **kwargs) -> torch.Tensor:
    seen = []
    hook = blocks(tower)[layer].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tower.encode(*args, **kwargs)
    hook.remove()
    return seen[0]


def test_padding_never_changes_a_feature(tower):
    short, long = prompts(5, 8), prompts(5, 8, padded_to=17)
    expected = tower.encode(tower.embed(short.ids), short.attended)
    torch.testing.assert_close(tower.encode(tower.embed(long.ids), long.attended), expected, rtol=0, atol=1e-5)
    noise = torch.where(long.attended[..., None], tower.embed(long.ids), torch.randn(2, 17, tower.width))
    torch.testing.assert_close(tower.encode(noise, long.attended), expected, rtol=0, atol=1e-5)


def test_a_prompts_feature_does_not_depend_on_its_neighbours(tower):
    tokens = prompts(5, 8, 6)
    together = tower.encode(tower.embed(tokens.ids), tokens.attended)
    alone = tower.encode(tower.embed(tokens.ids[2:, :6]), tokens.attended[2:, :6])
    torch.testing.assert_close(alone[0], together[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 2])
def test_an_injection_of_weight_0_changes_nothing(tower, layer):
    tokens = prompts(7, 9)
    injection = Injection(layer, torch.randn(2, 4, tower.width), 0.0)
    embedded = tower.embed(tokens.ids)
    expected = tower.encode(embedded, tokens.attended)
    assert torch.equal(tower.encode(embedded, tokens.attended, injection=injection), expected)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_an_injection_of_weight_1_touches_exactly_the_context_at_its_block(tower, layer):
    tokens = prompts(7, 9)
    vectors = torch.randn(2, 4, tower.width)
    given = (tower.embed(tokens.ids), tokens.attended)
    plain = inputs_of(tower, layer, *given)
    injected = inputs_of(tower, layer, *given, injection=Injection(layer, vectors, 1.0))
    assert torch.equal(injected[:, 1:5], vectors)
    assert torch.equal(injected[:, :1], plain[:, :1])
    assert torch.equal(injected[:, 5:], plain[:, 5:])
    for before in range(layer):
        expected = inputs_of(tower, before, *given)
        assert torch.equal(inputs_of(tower, before, *given, injection=Injection(layer, vectors, 1.0)), expected)


def test_an_injection_in_between_is_a_mixture(tower):
    tokens = prompts(7, 9)
    vectors = torch.randn(2, 4, tower.width)
    given = (tower.embed(tokens.ids), tokens.attended)
    plain = inputs_of(tower, 1, *given)
    mixed = inputs_of(tower, 1, *given, injection=Injection(1, vectors, 0.25))
    torch.testing.assert_close(mixed[:, 1:5], 0.75 * plain[:, 1:5] + 0.25 * vectors)


def test_gradients_reach_embeddings_and_injection_and_no_weight(tower):
    tokens = prompts(7, 9)
    embedded = tower.embed(tokens.ids).requires_grad_()
    vectors = torch.randn(2, 3, tower.width, requires_grad=True)
    tower.encode(embedded, tokens.attended, injection=Injection(1, vectors, 0.5)).square().sum().backward()
    assert vectors.grad.abs().sum(-1).gt(0).all()
    assert embedded.grad[tokens.attended].abs().sum(-1).gt(0).all()
    assert embedded.grad[~tokens.attended].eq(0).all()
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_the_gradient_is_the_derivative(tower):
    double = copy.deepcopy(tower).double()
    tokens = prompts(4)
    embedded = double.embed(tokens.ids).detach().requires_grad_()
    vectors = torch.randn(1, 1, tower.width, dtype=torch.double, requires_grad=True)

    def feature(embeddings, injected):
        return double.encode(embeddings, tokens.attended, injection=Injection(1, injected, 0.3))

    assert torch.autograd.gradcheck(feature, (embedded, vectors), fast_mode=True)


def test_a_frozen_tower_is_bit_identical_after_use_in_training_mode_and_gives_the_same_features(tower):
    tokens = prompts(7, 9)
    before = state_of(tower)
    expected = tower.encode(tower.embed(tokens.ids), tokens.attended)
    tower.train()
    embedded = tower.embed(tokens.ids).requires_grad_()
    features = tower.encode(embedded, tokens.attended)
    features.sum().backward()
    assert torch.equal(features, expected)
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


@pytest.mark.parametrize(
    ("injection", "message"),
    [
        (lambda width: Injection(3, torch.zeros(2, 4, width), 1.0), r"layer must be in \[0, 3\), got 3"),
        (lambda width: Injection(0, torch.zeros(2, 4, width), 1.5), r"weight must be in \[0, 1\], got 1.5"),
        (lambda width: Injection(0, torch.zeros(3, 4, width), 1.0), r"vectors must be \(2, n <= 7"),
        (lambda width: Injection(0, torch.zeros(2, 8, width), 1.0), r"got \(2, 8"),
    ],
)
def test_an_injection_that_does_not_fit_raises(tower, injection, message):
    tokens = prompts(7, 9)
    with pytest.raises(ValueError, match=message):
        tower.encode(tower.embed(tokens.ids), tokens.attended, injection=injection(tower.width))


def test_a_prompt_beyond_the_context_length_raises(tower):
    tokens = prompts(21)
    with pytest.raises(ValueError, match="20"):
        tower.encode(tower.embed(tokens.ids), tokens.attended)


def test_bert_is_transformers_bert_pooled_by_hand():
    model = bert_model()
    tokens = prompts(5, 9)
    hidden = model(input_ids=tokens.ids, attention_mask=tokens.attended.long()).last_hidden_state
    mean = torch.stack([hidden[0, :5].mean(0), hidden[1, :9].mean(0)])
    for pooling, expected in (("first", hidden[:, 0]), ("mean", mean)):
        tower = BertTextTower(model, head=torch.nn.Identity(), pooling=pooling, context_length=20)
        seen = tower.encode(tower.embed(tokens.ids), tokens.attended)
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_a_context_length_without_positions_raises():
    with pytest.raises(ValueError, match=r"context_length must be in \[3, 20\], got 21"):
        BertTextTower(bert_model(), head=torch.nn.Identity(), pooling="mean", context_length=21)
