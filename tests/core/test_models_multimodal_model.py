from dataclasses import replace

import pytest
import torch
from multimodal_cases import END, IMAGE, PADDING, START, batch, build, longer, padded
from torch.nn import functional

from medalign_core.models.multimodal.batch import IGNORED

MODES = ["separate", "packed", "in_context", "embeddings"]
NODES = ("image_nodes", "answer_nodes", "extended_nodes")


def pixels(model, given):
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (model.mean, model.std))
    return (given.images.float() / 255 - mean) / std


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_loss_is_that_of_transformers_own_forward():
    model = build().eval()
    given = batch(model)
    expected = model.network(
        input_ids=given.conversation_tokens,
        attention_mask=given.conversation_attended,
        pixel_values=pixels(model, given),
        labels=given.conversation_labels,
    ).loss
    output = model(given)
    torch.testing.assert_close(output.ar_loss_sum / output.ar_tokens, expected, atol=1e-5, rtol=1e-5)
    assert output.ar_tokens == (given.conversation_labels != IGNORED).sum()


@pytest.mark.parametrize("kind", ["clip", "efficientnet"])
def test_packed_gives_the_loss_the_nodes_and_the_gradients_of_three_passes(kind):
    results = []
    for mode in ("separate", "packed"):
        model = build(kind, text_nodes=mode)
        output = model(batch(model, without_image=(1,)))
        total = output.ar_loss_sum + sum(getattr(output, name).square().sum() for name in NODES)
        results.append((output, gradients(model, total)))
    (separate, one), (packed, other) = results
    for name in (*NODES, "ar_loss_sum"):
        torch.testing.assert_close(getattr(packed, name), getattr(separate, name), atol=1e-5, rtol=1e-5)
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=2e-5, rtol=1e-4)


def test_every_mode_has_the_same_loss_and_the_same_image_nodes():
    outputs = [model(batch(model)) for model in (build(text_nodes=mode) for mode in MODES)]
    for output in outputs[1:]:
        torch.testing.assert_close(output.ar_loss_sum, outputs[0].ar_loss_sum, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(output.image_nodes, outputs[0].image_nodes)


def test_in_context_pools_the_answer_where_it_stands_and_has_no_extended_nodes():
    model = build(text_nodes="in_context").eval()
    given = batch(model)
    states = model.network.model(
        input_ids=given.conversation_tokens,
        attention_mask=given.conversation_attended,
        pixel_values=pixels(model, given),
    ).last_hidden_state
    spoken = given.conversation_labels != IGNORED
    output = model(given)
    for row in range(3):
        expected = states[row, spoken[row]].mean(dim=0)
        torch.testing.assert_close(output.answer_nodes[row], expected, atol=1e-5, rtol=1e-5)
    assert output.extended_nodes is None


def test_in_context_runs_the_language_model_once_and_separate_three_times():
    for mode, wanted in (("in_context", 1), ("packed", 1), ("separate", 3), ("embeddings", 1)):
        model, calls = build(text_nodes=mode), []
        model.decoder.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(batch(model))
        assert len(calls) == wanted, mode


def test_embedding_nodes_are_means_of_input_embeddings():
    model = build(text_nodes="embeddings")
    given = batch(model)
    table = model.network.get_input_embeddings().weight
    first = given.answer_tokens[0, given.answer_attended[0]]
    torch.testing.assert_close(model(given).answer_nodes[0], table[first].mean(dim=0))


def test_the_image_node_is_the_mean_of_the_projected_tokens():
    model = build()
    given = batch(model, without_image=(2,))
    nodes = model(given).image_nodes
    torch.testing.assert_close(nodes[:2], model.project(given.images)[:2].mean(dim=1))
    assert (nodes[2] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_more_padding_changes_nothing(mode):
    model = build(text_nodes=mode)
    given = batch(model)
    for one, other in zip(model(given), model(longer(given, 5)), strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_published_pooling_depends_on_padding():
    model = build(text_nodes="separate", pooling="with_padding")
    given = batch(model)
    before, after = model(given).answer_nodes, model(longer(given, 5)).answer_nodes
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_permuted_rows_give_permuted_nodes_and_the_same_loss(mode):
    model = build(text_nodes=mode)
    given, order = batch(model, 4), torch.tensor([2, 0, 3, 1])
    tensors = {n: v[order] for n, v in vars(given).items() if isinstance(v, torch.Tensor)}
    before, after = model(given), model(replace(given, **tensors))
    torch.testing.assert_close(after.ar_loss_sum, before.ar_loss_sum)
    for name in NODES:
        if getattr(before, name) is not None:
            torch.testing.assert_close(getattr(after, name), getattr(before, name)[order], atol=1e-5, rtol=1e-5)


def test_gradients_of_each_node_reach_what_they_are_made_of_and_nothing_else():
    model = build()
    for name, reached, spared in (
        ("image_nodes", "multi_modal_projector", "language_model"),
        ("answer_nodes", "language_model", "multi_modal_projector"),
        ("extended_nodes", "language_model", "multi_modal_projector"),
    ):
        found = gradients(model, getattr(model(batch(model)), name).square().sum())
        assert any(reached in key and g.abs().max() > 0 for key, g in found.items())
        assert all(g.abs().max() == 0 for key, g in found.items() if spared in key)
        assert not any("vision_tower" in key for key in found)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_any_image_gives_every_trained_parameter_a_gradient(mode):
    model = build(text_nodes=mode)
    output = model(batch(model, without_image=(0, 1, 2)))
    found = gradients(model, output.ar_loss_sum + output.image_nodes.sum())
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(g.isfinite().all() for g in found.values())
    assert all((g == 0).all() for name, g in found.items() if "projector" in name)


def test_a_hole_counts_in_no_loss():
    model = build()
    given = batch(model)
    alone = model(replace(given, valid=torch.tensor([True, False, False])))
    assert alone.ar_tokens == (given.conversation_labels[0] != IGNORED).sum()
    none = model(replace(given, valid=torch.zeros(3, dtype=torch.bool)))
    assert none.ar_loss_sum == 0
    assert none.ar_tokens == 0
    none.ar_loss_sum.backward()


@pytest.mark.parametrize("attention", ["sdpa", "eager", "medalign_varlen"])
@pytest.mark.parametrize("mode", MODES)
def test_rows_without_a_single_token_spoil_nothing(mode, attention):
    model = build(text_nodes=mode, attention=attention)
    given = batch(model, without_image=(0, 1, 2))
    names = ("conversation_attended", "answer_attended", "extended_attended")
    for empty in ([1], [0, 1, 2]):
        changed = {name: getattr(given, name).index_fill(0, torch.tensor(empty), False) for name in names}
        changed["conversation_labels"] = given.conversation_labels.index_fill(0, torch.tensor(empty), IGNORED)
        output = model(replace(given, valid=torch.tensor([row not in empty for row in range(3)]), **changed))
        nodes = [n for n in (output.answer_nodes, output.extended_nodes) if n is not None]
        assert all((n[empty] == 0).all() for n in nodes)
        found = gradients(model, output.ar_loss_sum + sum(n.sum() for n in nodes))
        assert set(found) >= {name for name, p in model.named_parameters() if p.requires_grad and "layers" in name}
        assert all(g.isfinite().all() for g in found.values())


def test_texts_that_a_batch_lacks_have_no_nodes():
    for mode in ("separate", "packed"):
        model = build(text_nodes=mode)
        given = replace(batch(model), extended_tokens=None, extended_attended=None)
        assert model(given).extended_nodes is None
        assert model(given).answer_nodes is not None
        given = replace(given, answer_tokens=None, answer_attended=None)
        assert model(given).answer_nodes is None


@pytest.mark.parametrize("mode", ["separate", "packed"])
def test_activation_checkpointing_changes_neither_loss_nor_gradients(mode):
    plain, sparing = (build(text_nodes=mode, activation_checkpointing=c).train() for c in (False, True))
    one, other = (gradients(m, m(batch(m)).ar_loss_sum) for m in (plain, sparing))
    for name in one:
        torch.testing.assert_close(other[name], one[name])


def test_image_tokens_that_do_not_fit_the_image_raise():
    model = build()
    given = batch(model)
    with pytest.raises(ValueError, match="row 1 has 16 image tokens; 16 with an image, 0 without one"):
        model(replace(given, has_image=torch.tensor([True, False, True])))
    tokens, attended = padded([[1, START, IMAGE, IMAGE, IMAGE, END, 5]])
    with pytest.raises(ValueError, match="row 0 has 3 image tokens"):
        model.generate(given.images[:1], tokens, attended, max_new_tokens=2, stop=(2,), padding=PADDING)


def test_generation_is_the_most_probable_token_again_and_again():
    model = build().eval()
    given = batch(model, 1)
    tokens, attended = given.conversation_tokens[:, :22], given.conversation_attended[:, :22]
    said = model.generate(given.images, tokens, attended, max_new_tokens=6, stop=(2,), padding=PADDING)[0]
    text = tokens
    with torch.no_grad():
        for token in said:
            logits = model.network(input_ids=text, pixel_values=pixels(model, given)).logits[0, -1]
            assert logits.argmax() == token
            if token == 2:
                break
            text = torch.cat([text, token.reshape(1, 1)], dim=1)


def test_generation_in_a_batch_is_generation_alone():
    model = build().eval()
    given = batch(model, 3, without_image=(1,))
    settings = {"max_new_tokens": 5, "stop": (2,), "padding": PADDING}
    together = model.generate(given.images, given.conversation_tokens, given.conversation_attended, **settings)
    for row in range(3):
        length = int(given.conversation_attended[row].sum())
        tokens = given.conversation_tokens[row : row + 1, :length]
        alone = model.generate(given.images[row : row + 1], tokens, torch.ones_like(tokens).bool(), **settings)
        expected = functional.pad(alone[0], (0, together.shape[1] - alone.shape[1]), value=PADDING)
        assert together[row].tolist() == expected.tolist()


def test_an_answer_ends_at_a_stop_token_and_is_padded():
    model = build().eval()
    given = batch(model, 2)
    settings = {"max_new_tokens": 4, "padding": PADDING}
    free = model.generate(given.images, given.conversation_tokens, given.conversation_attended, stop=(2,), **settings)
    stop = int(free[0, 0])
    ended = model.generate(
        given.images, given.conversation_tokens, given.conversation_attended, stop=(stop,), **settings
    )
    assert ended[0, 0] == stop
    assert (ended[0, 1:] == PADDING).all()


def test_likelihoods_of_rows_sum_to_the_loss_and_padding_changes_none():
    model = build(text_nodes="in_context")
    given = batch(model)
    texts = (given.conversation_tokens, given.conversation_attended, given.conversation_labels)
    found = model.log_likelihoods(given.images, *texts)
    torch.testing.assert_close(-found.sum(), model(given).ar_loss_sum.detach(), rtol=1e-5, atol=1e-5)
    for row in range(len(found)):
        length = int(given.conversation_attended[row].sum())
        alone = model.log_likelihoods(given.images[row : row + 1], *(text[row : row + 1, :length] for text in texts))
        torch.testing.assert_close(alone[0], found[row], rtol=1e-5, atol=1e-5)
