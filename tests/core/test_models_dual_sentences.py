import math

import torch
from few_shot_cases import DESCRIPTIONS, tiny_clip

from medalign_core.models.dual.sentences import ContextGenerator, SentenceAttention, Sentences, encode_sentences
from medalign_core.ops.draws import generator


def ragged(*, dtype: torch.dtype = torch.float64) -> Sentences:
    units = torch.randn(3, 4, 8, generator=generator("ragged"), dtype=dtype)
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    return Sentences(torch.nn.functional.normalize(units, dim=2) * valid[..., None], valid)


def attention(share: float = 0.2) -> SentenceAttention:
    return SentenceAttention(8, share=share, draws=generator("attention")).double()


def test_ragged_descriptions_are_padded_and_cut_to_the_first_k():
    model = tiny_clip()
    given = [DESCRIPTIONS[0], DESCRIPTIONS[1][:1], DESCRIPTIONS[2][:2]]
    found = encode_sentences(model, given, most=3)
    assert found.valid.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    alone = model.encode_texts([DESCRIPTIONS[2][1]])[0]
    torch.testing.assert_close(found.units[2, 1], alone / alone.norm())
    assert (found.units[~found.valid] == 0).all()


def test_attention_is_its_formula_class_by_class():
    module, sentences = attention(), ragged()
    found = module(sentences)
    for c, count in enumerate([4, 2, 1]):
        x = sentences.units[c, :count]
        q, k, v = (x @ part.weight.T for part in (module.query, module.key, module.value))
        y = (q @ k.T / math.sqrt(2)).softmax(dim=1) @ v @ module.output.weight.T
        mixed = 2 * (0.2 * y + 0.8 * x)
        expected = (mixed - mixed.mean(1, keepdim=True)) / (mixed.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(found[c, :count], expected)
        assert (found[c, count:] == 0).all()


def test_attention_does_not_mind_the_order_of_sentences():
    module, (units, valid) = attention(), ragged()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        module(Sentences(units[:, order], valid[:, order])), module(Sentences(units, valid))[:, order]
    )


def test_attention_has_the_right_gradient_where_sentences_are_missing():
    module, (units, valid) = attention(0.7), ragged()
    assert torch.autograd.gradcheck(lambda x: module(Sentences(x, valid)), (units.clone().requires_grad_(),))


def test_dropout_is_drawn_by_its_key_and_only_then():
    module, sentences = attention(), ragged()
    plain = module(sentences)
    first, again = (module(sentences, draws=generator("drop", 1)) for _ in range(2))
    assert torch.equal(module(sentences), plain)
    assert torch.equal(first, again)
    assert not torch.equal(first, module(sentences, draws=generator("drop", 2)))


def test_the_generator_of_contexts_is_a_bottleneck_with_quick_gelu():
    module = ContextGenerator(8, length=3, context_width=5, draws=generator("bottleneck")).double()
    x = torch.randn(2, 8, generator=generator("x"), dtype=torch.float64)
    hidden = x @ module.down.weight.T + module.down.bias
    hidden = hidden / (1 + (-1.702 * hidden).exp())
    expected = (hidden @ module.up.weight.T + module.up.bias).reshape(2, 3, 5)
    torch.testing.assert_close(module(x), expected)
    assert module.down.out_features == 2
    assert torch.autograd.gradcheck(module, (x.requires_grad_(),))


def test_new_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = attention().state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(value, first[name]) for name, value in attention().state_dict().items())
