from dataclasses import replace

import pytest
import torch
from multimodal_cases import batch, build

from medalign_core.objectives.logra_med.baselines.info_nce import ChatInfoNCE
from medalign_core.objectives.logra_med.baselines.siglip import ChatSigLIP
from medalign_core.objectives.logra_med.baselines.transport import ChatTransport
from medalign_core.objectives.logra_med.baselines.vlap import ChatVLAP
from medalign_core.objectives.logra_med.module import ChatModule
from medalign_core.objectives.logra_med.settings import Autoregressive, LoGraMed
from medalign_core.types import DrawKey

ROWS = 8
SETTINGS = LoGraMed(neighbours=3)
ALIGNED = (
    SETTINGS,
    ChatInfoNCE(),
    ChatInfoNCE(negatives="all"),
    ChatSigLIP(),
    ChatSigLIP(learned=False),
    ChatTransport(),
    ChatTransport(loss="value"),
    ChatVLAP(),
)


def module_of(settings=SETTINGS, **model) -> ChatModule:
    model = build(**model)
    torch.manual_seed(1)
    return settings.build(model)


def gradients(module: ChatModule, given, loss=None) -> dict[str, torch.Tensor]:
    module.zero_grad()
    (module(given)[0] if loss is None else loss(module, given)).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def alignment_alone(module: ChatModule, given) -> torch.Tensor:
    return module.losses(given).alignment


@pytest.mark.parametrize("settings", ALIGNED, ids=lambda s: type(s).__name__)
def test_every_alignment_adds_alpha_times_its_loss_and_its_gradient_to_the_autoregressive_one(settings):
    module = module_of(settings)
    given = batch(module.model, ROWS)
    losses = module.losses(given)
    loss, stats = module(given)
    torch.testing.assert_close(loss, losses.autoregressive + losses.alignment)
    torch.testing.assert_close(stats["ar_loss"], losses.autoregressive.detach())
    half = replace(settings, alpha=0.5)
    torch.testing.assert_close(
        ChatModule(module.model, half, module.alignment)(given)[0], losses.autoregressive + 0.5 * losses.alignment
    )
    assert {"ar_tokens", "alignment_loss", "duplicate_rate", "aligned_samples", "matching_accuracy"} <= set(stats)
    assert all(v.shape == () and not v.requires_grad and v.isfinite() for v in stats.values())
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    found = gradients(module, given)
    assert set(found) == trained
    assert all(g.isfinite().all() for g in found.values())


@pytest.mark.parametrize("settings", ALIGNED, ids=lambda s: type(s).__name__)
def test_the_alignment_trains_projector_language_model_and_its_own_weights_and_no_tower(settings):
    found = gradients(module_of(settings), batch(module_of(settings).model, ROWS), alignment_alone)
    touched = {name for name, g in found.items() if (g != 0).any()}
    assert any("projector" in name for name in touched)
    assert any("language_model.layers" in name for name in touched)
    assert not any("vision_tower" in name for name in found)
    assert all(name in touched for name in found if name.startswith("alignment."))


def test_the_image_graph_alone_reaches_the_projector_and_the_text_graphs_the_language_model():
    module = module_of()
    output = module.model(batch(module.model, ROWS))
    weights = dict(module.model.named_parameters())
    for node, reached in ((output.image_nodes, "projector"), (output.answer_nodes, "language_model")):
        found = torch.autograd.grad(
            node.sum(), [p for p in weights.values() if p.requires_grad], allow_unused=True, retain_graph=True
        )
        names = [n for n, p in weights.items() if p.requires_grad]
        touched = {n for n, g in zip(names, found, strict=True) if g is not None and (g != 0).any()}
        assert touched
        assert all(reached in name for name in touched)


def test_with_alpha_zero_loss_and_gradients_of_the_model_are_those_of_the_autoregressive_loss_to_the_bit():
    plain, silent = module_of(Autoregressive()), module_of(replace(SETTINGS, alpha=0.0))
    given = batch(plain.model, ROWS)
    assert plain(given)[0] == silent(given)[0]
    expected, found = gradients(plain, given), gradients(silent, given)
    for name, gradient in expected.items():
        assert (found[name] == gradient).all()
    assert all((g == 0).all() for name, g in found.items() if name.startswith("alignment."))


def test_the_autoregressive_loss_is_the_mean_over_target_tokens():
    module = module_of(Autoregressive())
    given = batch(module.model, ROWS)
    output = module.model(given)
    loss, stats = module(given)
    torch.testing.assert_close(loss, output.ar_loss_sum / output.ar_tokens)
    assert set(stats) == {"ar_loss", "ar_tokens"}
    assert not [name for name, _ in module.named_parameters() if not name.startswith("model.")]


@pytest.mark.parametrize("settings", ALIGNED, ids=lambda s: type(s).__name__)
def test_a_micro_batch_of_holes_costs_nothing_and_gives_every_trained_weight_a_gradient_of_zero(settings):
    module = module_of(settings)
    given = batch(module.model, ROWS)
    loss, stats = module(replace(given, valid=torch.zeros(ROWS, dtype=torch.bool), weight=0.0))
    loss.backward()
    assert loss == 0
    assert all(value.isfinite() for value in stats.values())
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.grad is not None and (p.grad == 0).all() for p in trained)


def test_duplicates_are_masked_from_the_alignment_or_only_counted_and_never_from_the_autoregressive_loss():
    module = module_of()
    given = batch(module.model, ROWS)
    images, answers = given.image_ids.clone(), given.answer_ids.clone()
    images[5], answers[7] = 0, 2  # row 5 shows row 0's image, row 7 has row 2's answer
    doubled = replace(given, image_ids=images, answer_ids=answers)
    loss, stats = module(doubled)
    assert stats["duplicate_rate"] == 2 / ROWS
    assert stats["aligned_samples"] == ROWS - 2
    without = torch.tensor([True] * 5 + [False, True, False])
    fewer = module.losses(replace(given, valid=without))
    torch.testing.assert_close(module.losses(doubled).alignment, fewer.alignment)
    assert stats["ar_loss"] == module(given)[1]["ar_loss"]
    counting = ChatModule(module.model, replace(SETTINGS, duplicates="count"), module.alignment)
    _, counted = counting(doubled)
    assert counted["duplicate_rate"] == 2 / ROWS
    assert counted["aligned_samples"] == ROWS
    assert counting.losses(doubled).alignment == module.losses(given).alignment


def test_rows_without_an_image_or_a_text_are_not_aligned():
    module = module_of()
    assert module(batch(module.model, ROWS, without_image=(1, 4)))[1]["aligned_samples"] == ROWS - 2
    texts_only = ChatModule(module.model, replace(SETTINGS, graphs=("answer", "extended")), module.alignment)
    assert texts_only(batch(module.model, ROWS, without_image=(1, 4)))[1]["aligned_samples"] == ROWS
    given = batch(module.model, ROWS)
    silent = given.extended_attended.clone()
    silent[3] = False
    assert module(replace(given, extended_attended=silent))[1]["aligned_samples"] == ROWS - 1


def test_graphs_that_the_model_does_not_give_raise_and_may_be_left_out():
    module = module_of()
    given = replace(batch(module.model, ROWS), extended_tokens=None, extended_attended=None)
    with pytest.raises(ValueError, match="the model gives no extended nodes: prepare such texts, or leave 'extended'"):
        module(given)
    loss, stats = module_of(replace(SETTINGS, graphs=("image", "answer")))(given)
    assert loss.isfinite()
    assert "hamming_extended" not in stats


def test_answers_pooled_in_context_are_aligned_as_well():
    module = module_of(replace(SETTINGS, graphs=("image", "answer")), text_nodes="in_context")
    given = batch(module.model, ROWS)
    apart = replace(given, answer_tokens=None, answer_attended=None, extended_tokens=None, extended_attended=None)
    assert module(given)[1]["aligned_samples"] == ROWS
    if module.model(apart).answer_nodes is not None:
        assert module(apart)[1]["aligned_samples"] == ROWS


def test_the_same_key_gives_the_same_loss_to_the_bit_and_evaluation_knows_no_key():
    module = module_of()
    given = batch(module.model, ROWS)
    first = module(given)[0]
    torch.rand(3)
    assert module(given)[0] == first
    assert module(replace(given, key=DrawKey(0, 5, 0)))[0] != first
    module.eval()
    quiet = module(given)[0]
    torch.testing.assert_close(module(replace(given, key=DrawKey(0, 5, 0)))[0], quiet)


def test_gradient_norms_are_those_of_both_losses_and_leave_no_gradient_behind():
    module = module_of(replace(SETTINGS, alpha=0.25))
    given = batch(module.model, ROWS)
    norms = module.gradient_norms(given)
    assert all(p.grad is None for p in module.parameters())
    for name, loss in (
        ("ar_gradient", lambda m, b: m.losses(b).autoregressive),
        ("alignment_gradient", lambda m, b: 0.25 * m.losses(b).alignment),
    ):
        found = gradients(module, given, loss)
        expected = sum(g.square().sum() for n, g in found.items() if n.startswith("model.")) ** 0.5
        torch.testing.assert_close(norms[name], expected)
    assert set(module_of(Autoregressive()).gradient_norms(given)) == {"ar_gradient"}


def test_words_embeddings_are_no_weights_of_vlaps_own():
    module = module_of(ChatVLAP())
    assert not [name for name in module.state_dict() if name.startswith("alignment.")]
    given = batch(module.model, ROWS)
    _, stats = module(given)
    texts = [given.answer_tokens[given.answer_attended], given.extended_tokens[given.extended_attended]]
    assert stats["words"] == len(torch.cat(texts).unique())


def test_autocast_does_not_reach_the_alignment():
    module = module_of().eval()
    given = batch(module.model, ROWS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module.losses(given)
    assert losses.alignment.dtype == torch.float32
