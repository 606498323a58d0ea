import numpy as np
import pytest
import torch
from dual_towers import bert_model, images, prompts, state_of
from scipy import integrate, stats
from sklearn.linear_model import Ridge

from medalign_core.models.dual.bridge import mean_after_relu6, ridge_map
from medalign_core.models.dual.efficientnet import PublishedWeights, from_published
from medalign_core.models.dual.settings import Bridge
from medalign_core.models.dual.tokens import PromptTokenizer

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
STAGES += ((1, 3, 1, 6, 320),)
NAMES = ("cat", "dog", "bus", "cup", "owl")


def published_state(classes: int = len(NAMES)) -> dict[str, torch.Tensor]:
    """Return random weights with the names and shapes of the published ones."""
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws)

    state = {}

    def layer(convolution: str, norm: str, *shape: int) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        state[convolution + ".weight"] = drawn(*shape) * (2 / fan_in) ** 0.5
        state[norm + ".weight"], state[norm + ".bias"] = 1 + 0.2 * drawn(shape[0]), 0.2 * drawn(shape[0])
        state[norm + ".running_mean"], state[norm + ".running_var"] = 0.2 * drawn(shape[0]), 0.5 + drawn(shape[0]) ** 2

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    channels, index = 32, 0
    for repeats, kernel, _, expansion, out in STAGES:
        for _ in range(repeats):
            at, wide = f"_blocks.{index}.", channels * expansion
            if expansion > 1:
                layer(at + "_expand_conv", at + "_bn0", wide, channels, 1, 1)
            layer(at + "_depthwise_conv", at + "_bn1", wide, 1, kernel, kernel)
            layer(at + "_project_conv", at + "_bn2", out, wide, 1, 1)
            channels, index = out, index + 1
    layer("_conv_head", "_bn1", 1280, 320, 1, 1)
    state["_fc.weight"], state["_fc.bias"] = drawn(classes, 1280), drawn(classes)
    return state


def plain_forward(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Run the network as published: batch norms apart, padding as TensorFlow's "same"."""
    f = torch.nn.functional

    def conv(x, name, norm, stride=1, groups=1):
        weight = state[name + ".weight"]
        kernel, size = weight.shape[-1], x.shape[-1]
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = f.pad(x, (missing // 2, missing - missing // 2) * 2)
        x = f.conv2d(x, weight, stride=stride, groups=groups)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return f.batch_norm(x, *parts, eps=1e-3)

    x = f.relu6(conv(pixels, "_conv_stem", "_bn0", stride=2))
    index = 0
    for repeats, _, first, expansion, _ in STAGES:
        for repeat in range(repeats):
            at, stride, inner = f"_blocks.{index}.", first if repeat == 0 else 1, x
            if expansion > 1:
                inner = f.relu6(conv(inner, at + "_expand_conv", at + "_bn0"))
            inner = f.relu6(conv(inner, at + "_depthwise_conv", at + "_bn1", stride=stride, groups=inner.shape[1]))
            inner = conv(inner, at + "_project_conv", at + "_bn2")
            x = x + inner if inner.shape == x.shape else inner
            index += 1
    return f.relu6(conv(x, "_conv_head", "_bn1"))


def bridge(scale: float = 15.0):
    def split(texts: list[str]) -> list[list[int]]:
        return [[2 + ord(letter) % 60 for letter in text] for text in texts]

    tokenize = PromptTokenizer(split=split, start=1, end=63, padding=0, placeholder=2, context_length=20)
    settings = Bridge(template="a {}", context_length=20, scale=scale)
    return settings.build(from_published(published_state()), bert_model(), tokenize, NAMES)


@pytest.mark.parametrize("size", [64, 72])
def test_the_network_with_its_norms_folded_is_the_published_one(size):
    state, pixels = published_state(), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        seen = from_published(state).network(pixels)
        expected = plain_forward(state, pixels)
    assert 0 < expected.mean() < 6
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused():
    state = published_state()
    del state["_blocks.3._bn1.bias"]
    with pytest.raises(ValueError, match=r"not the weights of EfficientNet-Lite0: '_blocks.3._bn1.bias'"):
        from_published(state)
    with pytest.raises(ValueError, match="classifier must have 1280 columns"):
        from_published({**published_state(), "_fc.weight": torch.zeros(5, 7)})


def test_the_ridge_is_scikit_learns_with_an_intercept():
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 12, generator=draws).double(), torch.randn(30, 5, generator=draws).double()
    expected = Ridge(alpha=0.7).fit(x.numpy(), y.numpy()).coef_.T
    np.testing.assert_allclose(ridge_map(x, y, strength=0.7).numpy(), expected, rtol=1e-9)


def test_the_ridge_vanishes_as_its_strength_grows_and_interpolates_as_it_shrinks():
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 40, generator=draws).double(), torch.randn(6, 5, generator=draws).double()
    assert ridge_map(x, y, strength=1e9).abs().max() < 1e-6
    fitted = (x - x.mean(0)) @ ridge_map(x, y, strength=1e-10)
    torch.testing.assert_close(fitted, y - y.mean(0), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="strength must be > 0, got 0"):
        ridge_map(x, y, strength=0.0)


@pytest.mark.parametrize(("mean", "std"), [(-3.0, 2.9), (0.0, 1.0), (2.0, 0.3), (5.5, 2.0), (9.0, 1.0)])
def test_the_mean_after_relu6_is_its_integral(mean, std):
    def weighed(z):
        return min(max(z, 0.0), 6.0) * stats.norm.pdf(z, mean, std)

    expected = integrate.quad(weighed, mean - 12 * std, mean + 12 * std, points=[0.0, 6.0], limit=200)[0]
    given = (torch.tensor([value], dtype=torch.double) for value in (mean, std))
    assert mean_after_relu6(*given).item() == pytest.approx(expected, abs=1e-7)


def test_local_tokens_are_the_cells_and_their_mean_is_the_pooled_feature():
    model = bridge()
    pictures = images(2, 224)
    seen = model.image(pictures)
    assert seen.tokens.shape == (2, model.image.token_count, 128) == (2, 49, 128)
    torch.testing.assert_close(seen.pooled, seen.tokens.mean(1))
    cells = plain_forward(published_state(), (pictures.float() - 127) / 128)
    centred = cells[:, :, 2, 3] - mean_after_relu6(*from_published(published_state())[2:])
    unit = torch.nn.functional.normalize(_sentences(), dim=1)
    mapped = centred @ ridge_map(published_state()["_fc.weight"], unit, strength=3.0)
    torch.testing.assert_close(seen.tokens[:, 2 * 7 + 3], mapped, rtol=1e-3, atol=1e-3)


def _sentences() -> torch.Tensor:
    model = bert_model()
    ids = [[1, *[2 + ord(letter) % 60 for letter in f"a {name}"], 63] for name in NAMES]
    return model(input_ids=torch.tensor(ids)).last_hidden_state.mean(1).detach()


def test_texts_are_unit_sentences_less_the_mean_of_the_classes():
    unit = torch.nn.functional.normalize(_sentences(), dim=1)
    seen = bridge().encode_texts([f"a {name}" for name in NAMES])
    torch.testing.assert_close(seen, unit - unit.mean(0), rtol=1e-4, atol=1e-5)
    assert seen.mean(0).abs().max() < 1e-6


def test_an_images_tokens_do_not_depend_on_its_batch():
    model, pictures = bridge(), images(11, 224)
    together = model.image(pictures).tokens
    torch.testing.assert_close(model.image(pictures[9:10]).tokens[0], together[9], rtol=1e-4, atol=1e-4)


def test_the_bridge_is_frozen_and_bit_identical_after_use_in_training_mode():
    model = bridge()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    before, seen, texts = state_of(model), model.image(images(2, 224)), model.encode_texts(["a b"])
    model.train()
    assert torch.equal(model.image(images(2, 224)).tokens, seen.tokens)
    assert torch.equal(model.encode_texts(["a b"]), texts)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_names_must_be_as_many_as_rows_and_settings_in_range():
    weights = from_published(published_state(classes=4))
    with pytest.raises(ValueError, match="has 4 rows, got 5 names"):
        Bridge().build(PublishedWeights(*weights), bert_model(), lambda texts, context: prompts(4), NAMES)
    for given, message in (
        ({"template": "a photo"}, "must hold one {}"),
        ({"ridge": 0.0}, "ridge and scale must be > 0"),
        ({"context_length": 600}, r"context_length must be in \[3, 512\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Bridge(**given)
