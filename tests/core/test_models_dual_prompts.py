import pytest
import torch
from few_shot_cases import NAMES, tiny_clip

from medalign_core.models.dual import prompts as learning
from medalign_core.models.dual.encoder import CONTEXT_START, Injection, PromptTokens
from medalign_core.models.dual.prompts import PromptLearner, injection_layer, new_contexts
from medalign_core.ops.draws import generator


def learner(model, *, count: int = 2, length: int = 3, chunk: int = 512) -> PromptLearner:
    draws = generator("prompts")
    contexts = new_contexts(model, count=count, length=length, words=None, draws=draws).to(model.text.projection.weight)
    return PromptLearner.of_classes(model, NAMES, contexts, chunk=chunk)


def one_by_one(model, prompts: PromptLearner, injected=None, *, layer: int = 0, weight: float = 1.0) -> torch.Tensor:
    """Every prompt by itself, without padding: word embeddings with the context written over the placeholders."""
    out, length = [], prompts.contexts.shape[1]
    for c, name in enumerate(NAMES):
        tokens = model.tokenize([f"{name}."], length)
        for context in prompts.contexts:
            embedded = model.text.embed(tokens.ids).clone()
            embedded[0, CONTEXT_START : CONTEXT_START + length] = context
            injection = None if injected is None else Injection(layer, injected[c : c + 1], weight)
            out.append(model.text.encode(embedded, tokens.attended, injection=injection)[0])
    return torch.stack(out).unflatten(0, (len(NAMES), -1))


@pytest.mark.parametrize("start", [0, 1000])  # every length by itself; all padded to the longest
def test_prompts_in_a_batch_are_those_encoded_one_by_one(monkeypatch, start):
    monkeypatch.setattr(learning, "START_TOKENS", start)
    model = tiny_clip(dtype=torch.float64)
    prompts = learner(model)
    assert (len(prompts.ends) == 1) == (start == 1000)
    torch.testing.assert_close(prompts(), one_by_one(model, prompts), rtol=1e-10, atol=1e-10)


def test_injected_vectors_are_those_of_the_class_in_all_its_prompts():
    model = tiny_clip(dtype=torch.float64)
    prompts = learner(model)
    vectors = torch.randn(4, 3, 16, generator=generator("vectors"), dtype=torch.float64)
    found = prompts(vectors, layer=2, weight=0.3)
    torch.testing.assert_close(found, one_by_one(model, prompts, vectors, layer=2, weight=0.3), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prompts(vectors, layer=2, weight=0.0), prompts(), rtol=0, atol=0)


def test_an_injection_touches_the_context_positions_of_its_block_alone():
    model = tiny_clip()
    prompts, seen = learner(model), []
    blocks = model.text.text.encoder.layers
    handles = [block.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone())) for block in blocks]
    prompts()
    prompts(torch.ones(4, 3, 16), layer=1, weight=1.0)
    for handle in handles:
        handle.remove()
    plain, injected = seen[:3], seen[3:]
    assert torch.equal(plain[0], injected[0])
    changed = (plain[1] != injected[1]).any(dim=2)
    assert changed[:, 1:4].all()
    assert not changed[:, 0].any()
    assert not changed[:, 4:].any()
    assert (injected[1][:, 1:4] == 1).all()


@pytest.mark.parametrize("chunk", [1, 4, 5])
def test_chunks_that_are_encoded_again_have_the_same_features_and_gradients(chunk):
    model = tiny_clip(dtype=torch.float64)
    gradients, features = [], []
    vectors = torch.randn(4, 3, 16, generator=generator("vectors"), dtype=torch.float64).requires_grad_()
    for size in (512, chunk):
        prompts = learner(model, chunk=size)
        found = prompts(vectors, layer=2, weight=0.5)
        features.append(found.detach())
        gradients.append(torch.autograd.grad(found.sin().sum(), (prompts.contexts, vectors)))
    torch.testing.assert_close(features[1], features[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-10)


def test_activations_of_a_chunk_are_made_again_in_the_backward_pass_and_only_there():
    model, calls = tiny_clip(), []
    model.text.text.encoder.layers[1].register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    prompts = learner(model, chunk=4)  # two classes of two prompts
    found = prompts()
    assert calls == [4, 4]
    found.sum().backward()
    assert calls == [4, 4, 4, 4]


def test_the_contexts_have_the_right_gradient():
    model = tiny_clip(dtype=torch.float64, layers=1)
    prompts = learner(model, count=1, length=2)
    start = prompts.contexts.detach().clone().requires_grad_()
    weight = torch.randn(4, 1, 12, generator=generator("weight"), dtype=torch.float64)

    def total(contexts):
        found = torch.func.functional_call(prompts, {"contexts": contexts})
        return (found * weight).sum()

    assert torch.autograd.gradcheck(total, (start,))


def test_columns_of_padding_are_cut_off():
    model = tiny_clip()
    tokens = model.tokenize([f"{name}." for name in NAMES], 3)
    more = PromptTokens(*(torch.nn.functional.pad(x, (0, 9)) for x in tokens))
    contexts = torch.zeros(1, 3, 16)
    assert PromptLearner(model.text, more, contexts).words.shape[1] == tokens.ids.shape[1]


def test_contexts_start_from_words_and_yet_differ():
    model = tiny_clip()
    contexts = new_contexts(model, count=3, length=4, words="a photo of a", draws=generator("words"))
    expected = model.text.embed(model.tokenize(["a photo of a"], 0).ids)[0, 1:5]
    assert torch.equal(contexts[0], expected)
    unsaid = new_contexts(model, count=3, length=None, words="a photo of a", draws=generator("words"))
    assert torch.equal(unsaid, contexts)
    assert 0.01 < (contexts[1:] - expected).std() < 0.03
    with pytest.raises(ValueError, match="are 4 tokens"):
        new_contexts(model, count=1, length=5, words="a photo of a", draws=generator("words"))


def test_the_injection_enters_two_thirds_up_unless_told():
    model = tiny_clip()
    assert injection_layer(model.text, None) == 2
    assert injection_layer(model.text, 0) == 0
    with pytest.raises(ValueError, match=r"must be in \[0, 2\], got 3"):
        injection_layer(model.text, 3)


def test_a_prompt_without_room_for_its_context_is_refused():
    with pytest.raises(ValueError, match="takes 32"):
        learner(tiny_clip(), length=40)
