import math

import pytest
import torch
from dual_towers import bert_model, images, prompts, scattered, state_of
from transformers import ViTConfig, ViTModel

from medalign_core.models.dual.biomed_clip import from_open_clip
from medalign_core.models.dual.pixels import CLIP_MEAN, CLIP_STD
from medalign_core.models.dual.settings import BiomedClip

CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "vit_tiny_patch8_32", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 16,
        },
    },
    "preprocess_cfg": {"mean": list(CLIP_MEAN), "std": list(CLIP_STD)},
}


def vit_model() -> ViTModel:
    torch.manual_seed(1)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = ViTConfig(image_size=32, patch_size=8, layer_norm_eps=1e-6, hidden_act="gelu", **sizes)
    return scattered(ViTModel(config, add_pooling_layer=False))


def timm_names(vit: ViTModel) -> dict[str, torch.Tensor]:
    """Return a transformers ViT's weights as timm names and joins them."""
    given = vit.state_dict()
    embeddings = "embeddings."
    named = {
        "cls_token": given[embeddings + "cls_token"],
        "pos_embed": given[embeddings + "position_embeddings"],
        "norm.weight": given["layernorm.weight"],
        "norm.bias": given["layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        named[f"patch_embed.proj.{kind}"] = given[f"{embeddings}patch_embeddings.projection.{kind}"]
        for index, block in enumerate(vit.layers):
            attention = block.attention
            joined = [getattr(layer, kind) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
            named[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat(joined).detach()
            parts = {
                "attn.proj": attention.o_proj,
                "norm1": block.layernorm_before,
                "norm2": block.layernorm_after,
                "mlp.fc1": block.mlp.fc1,
                "mlp.fc2": block.mlp.fc2,
            }
            named |= {f"blocks.{index}.{name}.{kind}": getattr(p, kind).detach() for name, p in parts.items()}
    return named


def checkpoint() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    state = {f"visual.trunk.{name}": value for name, value in timm_names(vit_model()).items()}
    state["visual.head.proj.weight"] = torch.randn(24, 128)
    bert = bert_model().state_dict()
    state |= {f"text.transformer.{name}": value for name, value in bert.items()}
    state["text.transformer.embeddings.position_ids"] = torch.arange(20)[None]
    state["text.proj.0.weight"], state["text.proj.2.weight"] = torch.randn(76, 128), torch.randn(24, 76)
    state["logit_scale"] = torch.tensor(math.log(50.0))
    return state


def test_the_image_tower_is_the_vit_and_one_linear_projection_of_every_token():
    state = checkpoint()
    tower = from_open_clip(CONFIG, state).image.eval()
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    hidden = vit_model()(pixel_values=(images().float() / 255 - mean) / std).last_hidden_state
    expected = hidden @ state["visual.head.proj.weight"].T
    seen = tower(images())
    torch.testing.assert_close(seen.pooled, expected[:, 0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(seen.tokens, expected[:, 1:], rtol=1e-5, atol=1e-4)
    assert (tower.image_size, tower.token_count) == (32, 16)


def test_the_text_tower_is_the_bert_its_first_token_and_two_linear_maps_with_a_gelu_between():
    state = checkpoint()
    tower = from_open_clip(CONFIG, state).text.eval()
    tokens = prompts(5, 9)
    hidden = bert_model()(input_ids=tokens.ids, attention_mask=tokens.attended.long()).last_hidden_state
    inner = torch.nn.functional.gelu(hidden[:, 0] @ state["text.proj.0.weight"].T)
    seen = tower.encode(tower.embed(tokens.ids), tokens.attended)
    torch.testing.assert_close(seen, inner @ state["text.proj.2.weight"].T, rtol=1e-5, atol=1e-4)
    assert (tower.context_length, tower.width, tower.layers) == (16, 128, 3)


def test_a_linear_text_projection_loads_too():
    state = checkpoint()
    del state["text.proj.0.weight"], state["text.proj.2.weight"]
    state["text.proj.weight"] = torch.randn(24, 128)
    config = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"]}}
    config["model_cfg"]["text_cfg"] = {**CONFIG["model_cfg"]["text_cfg"], "hf_proj_type": "linear"}
    tower = from_open_clip(config, state).text
    assert torch.equal(tower.head.weight, state["text.proj.weight"])


def test_the_model_is_frozen_and_bit_identical_after_use_in_training_mode():
    model = BiomedClip().build(CONFIG, checkpoint(), lambda texts, context: prompts(5, 9))
    assert model.scale == pytest.approx(50.0)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    before, first = state_of(model), model.encode_texts(["a", "b"])
    model.train()
    seen = model.image(images())
    assert torch.equal(model.encode_texts(["a", "b"]), first)
    assert torch.equal(model.eval().image(images()).pooled, seen.pooled)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision_cfg", "timm_model_name", "resnet50", r"timm_model_name must be a vit_\*, got 'resnet50'"),
        ("vision_cfg", "timm_pool", "avg", "timm_pool must be one of '', 'token', got 'avg'"),
        ("vision_cfg", "timm_proj", "mlp", "timm_proj must be one of 'linear', got 'mlp'"),
        ("text_cfg", "hf_pooler_type", "mean_pooler", "hf_pooler_type must be one of"),
        ("text_cfg", "hf_proj_type", None, "hf_proj_type must be one of"),
    ],
)
def test_another_architecture_is_refused_by_name(part, key, value, message):
    model = {**CONFIG["model_cfg"], part: {**CONFIG["model_cfg"][part], key: value}}
    with pytest.raises(ValueError, match=message):
        from_open_clip({**CONFIG, "model_cfg": model}, checkpoint())


@pytest.mark.parametrize("lacking", ["logit_scale", "visual.trunk.norm.bias", "text.proj.2.weight"])
def test_weights_that_are_not_all_there_are_refused(lacking):
    state = checkpoint()
    del state[lacking]
    with pytest.raises(ValueError, match=r"not those of a BiomedCLIP.*" + lacking.removeprefix("visual.trunk.")[5:]):
        from_open_clip(CONFIG, state)
