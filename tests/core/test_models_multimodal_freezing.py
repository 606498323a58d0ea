import copy

import pytest
import torch
from multimodal_cases import END, START, batch, build

from medalign_core.models.multimodal.adapters import fold_lora
from medalign_core.models.multimodal.freezing import TOWER, check_frozen, fingerprint
from medalign_core.models.multimodal.settings import LoRA


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def step(model, *, weight_decay: float = 0.5) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=weight_decay)
    output = model.train()(batch(model))
    (output.ar_loss_sum + output.image_nodes.square().sum() + output.answer_nodes.square().sum()).backward()
    optimizer.step()


def test_stage_1_trains_the_projector_and_rows_of_markers():
    names = trained_names(build(stage=1))
    projector = "network.model.multi_modal_projector"
    assert names == {"new_rows", *(f"{projector}.linear_{n}.{p}" for n in (1, 2) for p in ("weight", "bias"))}


@pytest.mark.parametrize("stage", [2, "vqa"])
def test_later_stages_train_all_but_the_tower(stage):
    model = build(stage=stage)
    everything = {name for name, _ in model.named_parameters()}
    assert trained_names(model) == {name for name in everything if not name.startswith(TOWER)}
    assert model.new_rows is None


@pytest.mark.parametrize("tied", [False, True])
def test_a_step_of_stage_1_changes_the_projector_and_two_embeddings_and_nothing_else(tied):
    model = build(stage=1, tied=tied)
    before = copy.deepcopy(model.network.state_dict())
    step(model)
    after = model.fold().state_dict()
    for name, value in after.items():
        changed = (value != before[name]).flatten(1).any(dim=1) if value.ndim > 1 else value != before[name]
        if "multi_modal_projector" in name:
            assert changed.any()
        elif name.endswith("embed_tokens.weight") or (tied and name == "lm_head.weight"):
            assert changed.nonzero().flatten().tolist() == [START, END]
        else:
            assert not changed.any(), name


@pytest.mark.parametrize("kind", ["clip", "efficientnet"])
def test_the_tower_is_bit_identical_after_a_step_of_stage_2(kind):
    model = build(kind)
    tower = model.network.model.vision_tower
    before, rest = fingerprint(tower), fingerprint(model.network.model.language_model)
    step(model)
    assert fingerprint(tower) == before
    assert fingerprint(model.network.model.language_model) != rest
    assert not any(module.training for module in tower.modules())


def test_a_fingerprint_sees_one_bit():
    layer = torch.nn.Linear(3, 3)
    before = fingerprint(layer)
    with torch.no_grad():
        layer.weight.view(torch.int32)[0, 0] ^= 1
    assert fingerprint(layer) != before


def test_new_rows_stand_for_the_markers_before_and_after_they_are_folded_in():
    model = build(stage=1).eval()
    with torch.no_grad():
        model.new_rows += 1.0
    given = batch(model)
    before = model(given).ar_loss_sum
    network = model.fold()
    again = build(stage=2).eval()
    again.network = network
    torch.testing.assert_close(again(given).ar_loss_sum, before, atol=1e-4, rtol=1e-5)


def test_a_parameter_against_the_stages_rule_is_named():
    model = build(stage=1)
    check_frozen(model, 1)
    model.network.lm_head.weight.requires_grad_()
    with pytest.raises(ValueError, match="stage 1: network.lm_head.weight trains, against the stage's rule"):
        check_frozen(model, 1)
    model = build(stage=2)
    check_frozen(model, 2)
    model.network.model.multi_modal_projector.linear_1.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="linear_1.bias is frozen"):
        check_frozen(model, 2)


def test_a_tower_in_training_mode_is_found_out():
    model = build()
    model.network.model.vision_tower.train()
    with pytest.raises(ValueError, match="the vision tower is in training mode"):
        check_frozen(model, 2)


def test_lora_starts_as_nothing_trains_its_updates_and_folds_into_the_weights():
    pytest.importorskip("peft")
    model, plain = build(lora=LoRA(rank=2)), build()
    given = batch(model)
    torch.testing.assert_close(model(given).ar_loss_sum, plain(given).ar_loss_sum)
    names = trained_names(model)
    assert all(".lora_" in name or "projector" in name for name in names)
    assert sum(".lora_A" in name for name in names) == 2 * 7  # 7 linear maps in each of 2 layers
    check_frozen(model, 2, lora=True)
    step(model)
    before = model.eval()(given)
    fold_lora(model.decoder)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in plain.named_parameters()}
    after = model(given)
    torch.testing.assert_close(after.ar_loss_sum, before.ar_loss_sum, atol=1e-4, rtol=1e-5)
