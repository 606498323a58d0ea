import pytest
import torch
from multimodal_cases import IMAGE, batch, build, language_model, tower
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from medalign_core.models.multimodal.architecture import (
    EfficientNetLite0Config,
    MedAlignLlavaForConditionalGeneration,
    visual_features,
)
from medalign_core.models.multimodal.assembling import assemble
from medalign_core.models.multimodal.configurations import image_tokens
from medalign_core.models.multimodal.settings import Llava

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

GPT2_CONFIG = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)


def pixels(model, given):
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (model.mean, model.std))
    return (given.images.float() / 255 - mean) / std


def logits(network, model, given):
    with torch.no_grad():
        return network.eval()(
            input_ids=given.conversation_tokens,
            attention_mask=given.conversation_attended,
            pixel_values=pixels(model, given),
        ).logits


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_opens_with_transformers_own_llava_and_gives_the_same_logits(tmp_path, kind, tied):
    model = build(kind, tied=tied)
    model.network.save_pretrained(tmp_path)
    again, info = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model.network) is type(again) is LlavaForConditionalGeneration
    given = batch(model)
    torch.testing.assert_close(logits(again, model, given), logits(model.network, model, given), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("efficientnet", {}), ("clip", {"dense": True}), ("siglip", {"dense": True}), ("clip", {"projector": "linear"})],
)
def test_a_saved_variant_opens_by_its_registered_class_and_gives_the_same_logits(tmp_path, kind, settings):
    model = build(kind, **settings)
    model.network.save_pretrained(tmp_path)
    again, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path, output_loading_info=True, trust_remote_code=False
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(again) is MedAlignLlavaForConditionalGeneration
    given = batch(model)
    torch.testing.assert_close(logits(again, model, given), logits(model.network, model, given), atol=1e-5, rtol=0)


def test_dense_channels_are_the_tap_then_the_mean_of_each_half():
    # 24 blocks of a ViT-L: h_0 .. h_24, each full of its own number; the class token is -1
    states = tuple(torch.cat([-torch.ones(1, 1, 2), torch.full((1, 5, 2), float(n))], dim=1) for n in range(25))
    features = visual_features(states, layer=-2, has_class_token=True, dense=True)
    assert features.shape == (1, 5, 6)
    assert features[0, 0].tolist() == [23.0, 23.0, 5.5, 5.5, 17.5, 17.5]  # h_23, mean(0..11), mean(12..23)
    assert visual_features(states, layer=-2, has_class_token=True).tolist() == torch.full((1, 5, 2), 23.0).tolist()


def test_a_tower_of_27_blocks_leaves_its_last_states_out_of_the_means():
    states = tuple(torch.full((1, 3, 1), float(n)) for n in range(28))
    features = visual_features(states, layer=-2, has_class_token=False, dense=True)
    assert features[0, 0].tolist() == [26.0, 6.0, 19.0]  # mean(0..12), mean(13..25)


def test_a_layer_that_the_tower_lacks_raises():
    states = (torch.zeros(1, 2, 1), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match=r"feature_layer must be in \[-2, 2\) for this tower, got -3"):
        visual_features(states, layer=-3, has_class_token=False)
    with pytest.raises(ValueError, match="dense needs a tower of two blocks at least, got 1"):
        visual_features(states, layer=-1, has_class_token=False, dense=True)


def test_projectors_have_the_published_sizes():
    clip, language = tower().config, language_model().config
    clip.hidden_size, language.hidden_size = 1024, 4096

    def size(**settings):
        from medalign_core.models.multimodal.architecture import MedAlignLlavaConfig, new_projector

        config = MedAlignLlavaConfig(vision_config=clip, text_config=language, **settings)
        with torch.device("meta"):
            return sum(p.numel() for p in new_projector(config).parameters())

    # 4.20, 20.98 and 29.37 million
    assert size(projector_kind="linear") == 1024 * 4096 + 4096
    assert size() == 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert size(dense_channels=True) == 3072 * 4096 + 4096 + 4096 * 4096 + 4096


def test_an_image_is_256_tokens_of_a_clip_at_224_and_49_of_efficientnet():
    config = tower().config
    config.image_size, config.patch_size = 224, 14
    assert image_tokens(config) == 256
    assert image_tokens(EfficientNetLite0Config()) == 49


def test_the_features_are_those_of_the_tap_without_the_class_token():
    model = build().eval()
    given = batch(model)
    states = model.network.model.vision_tower(pixels(model, given), output_hidden_states=True).hidden_states
    projector = model.network.model.multi_modal_projector
    torch.testing.assert_close(model.project(given.images), projector(states[-2][:, 1:]))
    dense = build(dense=True).eval()
    features = torch.cat([states[-2], (states[0] + states[1]) / 2, (states[2] + states[3]) / 2], dim=-1)[:, 1:]
    torch.testing.assert_close(dense.project(given.images), dense.network.model.multi_modal_projector(features))


@pytest.mark.parametrize(
    "causal",
    [
        lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)),
        lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        lambda: GPT2LMHeadModel(GPT2_CONFIG),
    ],
    ids=["mistral", "qwen2", "gpt2"],
)
def test_other_language_models_give_the_same_nodes_packed_and_apart(causal):
    outputs = []
    for mode in ("separate", "packed"):
        settings = Llava(text_nodes=mode)
        torch.manual_seed(0)
        network = assemble(tower(), causal(), settings, image_token=IMAGE)
        model = settings.build(network).eval()
        outputs.append(model(batch(model)))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_a_tied_head_finds_its_embeddings_whatever_they_are_called(tmp_path):
    network = assemble(tower(), GPT2LMHeadModel(GPT2_CONFIG), Llava(), image_token=IMAGE)
    assert type(network) is MedAlignLlavaForConditionalGeneration
    network.save_pretrained(tmp_path)
    again, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.lm_head.weight is again.get_input_embeddings().weight
    torch.testing.assert_close(again.lm_head.weight, network.lm_head.weight)


def test_a_head_that_is_more_than_one_matrix_is_refused():
    biased = PhiForCausalLM(PhiConfig(**SMALL))
    with pytest.raises(ValueError, match="the head of PhiForCausalLM is not one matrix without a bias"):
        assemble(tower(), biased, Llava(), image_token=IMAGE)
    scaled = CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.5))
    with pytest.raises(ValueError, match="CohereForCausalLM does more to its logits than a head's product"):
        assemble(tower(), scaled, Llava(), image_token=IMAGE)


def test_the_parts_themselves_are_held_and_nothing_is_left_without_memory():
    vision, causal = tower(), language_model(tied=True)
    network = assemble(vision, causal, Llava(), image_token=IMAGE)
    assert network.model.vision_tower is vision
    assert network.model.language_model is causal.model
    assert network.lm_head.weight is network.get_input_embeddings().weight
    assert not any(t.is_meta for t in (*network.parameters(), *network.buffers()))


def test_llama_7b_and_clip_l_have_the_published_number_of_parameters():
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    clip = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    with torch.device("meta"):
        vision, causal = CLIPVisionModel(clip), LlamaForCausalLM(LlamaConfig(vocab_size=32004))
        network = assemble(vision, causal, Llava(), image_token=32001)

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert network.config.image_seq_length == 256
    assert size(network.model.multi_modal_projector) == 20_979_712
    # LLaMA-7B's 6,738,415,616 and four rows more in embedding and head
    assert size(network.model.language_model) + size(network.lm_head) == 6_738_415_616 + 2 * 4 * 4096
    assert size(network.model.vision_tower) == 303_179_776
