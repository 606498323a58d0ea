import pytest
import torch
from dual_towers import images, prompts, scattered, state_of
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from medalign_core.models.dual.clip_resnet import from_open_clip
from medalign_core.models.dual.pixels import CLIP_MEAN, CLIP_STD, Normalisation
from medalign_core.models.dual.settings import Clip

PIXELS = Normalisation(CLIP_MEAN, CLIP_STD)
DEPTHS, WIDTH, SIZE, IMAGE_SIZE = (1, 2, 1, 1), 4, 24, 64
CONFIG = {"model_cfg": {"vision_cfg": {"layers": list(DEPTHS), "width": WIDTH}, "quick_gelu": True}}
DRAWS = torch.Generator()


def image_state() -> dict[str, torch.Tensor]:
    """Return a random ResNet with open_clip's names."""
    DRAWS.manual_seed(0)
    state = {}

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=DRAWS)

    def layer(convolution: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        state[f"{convolution}.weight"] = drawn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5
        state[f"{norm}.weight"], state[f"{norm}.bias"] = 1 + 0.3 * drawn(outputs), 0.3 * drawn(outputs)
        state[f"{norm}.running_mean"], state[f"{norm}.running_var"] = 0.3 * drawn(outputs), 0.5 + drawn(outputs) ** 2

    for index, (outputs, inputs) in enumerate(((2, 3), (2, 2), (WIDTH, 2)), start=1):
        layer(f"visual.conv{index}", f"visual.bn{index}", outputs, inputs, 3)
    channels = WIDTH
    for stage, depth in enumerate(DEPTHS):
        width = WIDTH * 2**stage
        for index in range(depth):
            at = f"visual.layer{stage + 1}.{index}"
            layer(f"{at}.conv1", f"{at}.bn1", width, channels, 1)
            layer(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            layer(f"{at}.conv3", f"{at}.bn3", width * 4, width, 1)
            if index == 0:
                layer(f"{at}.downsample.0", f"{at}.downsample.1", width * 4, channels, 1)
            channels = width * 4
    state["visual.attnpool.positional_embedding"] = drawn(5, channels)
    for name, outputs in (("q", channels), ("k", channels), ("v", channels), ("c", SIZE)):
        state[f"visual.attnpool.{name}_proj.weight"] = drawn(outputs, channels) / channels**0.5
        state[f"visual.attnpool.{name}_proj.bias"] = drawn(outputs)
    return state


def text_model() -> CLIPTextModelWithProjection:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = CLIPTextConfig(
        vocab_size=64,
        max_position_embeddings=20,
        projection_dim=SIZE,
        eos_token_id=63,
        hidden_act="quick_gelu",
        **sizes,
    )
    return scattered(CLIPTextModelWithProjection(config))


def text_state() -> dict[str, torch.Tensor]:
    """Return a transformers text half with open_clip's names."""
    model = text_model()
    text = model.text_model
    state = {
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
        "text_projection": model.text_projection.weight.T,
        "logit_scale": torch.tensor(4.0),
    }
    for kind in ("weight", "bias"):
        state[f"ln_final.{kind}"] = getattr(text.final_layer_norm, kind)
        for index, block in enumerate(text.encoder.layers):
            attention = block.self_attn
            joined = [getattr(part, kind) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
            at = f"transformer.resblocks.{index}"
            state[f"{at}.attn.in_proj_{kind}"] = torch.cat(joined)
            parts = {"attn.out_proj": attention.out_proj, "ln_1": block.layer_norm1, "ln_2": block.layer_norm2}
            parts |= {"mlp.c_fc": block.mlp.fc1, "mlp.c_proj": block.mlp.fc2}
            state |= {f"{at}.{name}.{kind}": getattr(part, kind) for name, part in parts.items()}
    return {name: value.detach().clone() for name, value in state.items()}


def plain_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Run the network as published: batch norms apart, torch's own multi-head attention, every position a query."""

    def conv(x, name, norm, stride=1):
        weight = state[f"visual.{name}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = (state[f"visual.{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, eps=1e-5)

    for index in (1, 2, 3):
        x = functional.relu(conv(x, f"conv{index}", f"bn{index}", stride=2 if index == 1 else 1))
    x = functional.avg_pool2d(x, 2)
    for stage, depth in enumerate(DEPTHS, start=1):
        for index in range(depth):
            at, pool = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            inner = functional.relu(conv(x, f"{at}.conv1", f"{at}.bn1"))
            inner = functional.relu(conv(inner, f"{at}.conv2", f"{at}.bn2"))
            inner = conv(functional.avg_pool2d(inner, pool), f"{at}.conv3", f"{at}.bn3")
            if index == 0:
                x = conv(functional.avg_pool2d(x, pool), f"{at}.downsample.0", f"{at}.downsample.1")
            x = functional.relu(x + inner)
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat((tokens.mean(0, keepdim=True), tokens)) + state["visual.attnpool.positional_embedding"][:, None]
    maps = {f"{name}_proj_weight": state[f"visual.attnpool.{name}_proj.weight"] for name in "qkv"}
    biases = torch.cat([state[f"visual.attnpool.{name}_proj.bias"] for name in "qkv"])
    width = tokens.shape[-1]
    attended, _ = functional.multi_head_attention_forward(
        tokens, tokens, tokens, width, width // 64, None, biases, None, None, False, 0.0,
        state["visual.attnpool.c_proj.weight"], state["visual.attnpool.c_proj.bias"], training=False,
        use_separate_proj_weight=True, need_weights=False, **maps,
    )  # fmt: skip
    return attended.transpose(0, 1)


def test_the_image_tower_is_the_published_network_with_every_position_a_query():
    state = image_state()
    tower = from_open_clip(CONFIG, {**state, **text_state()}, pixels=PIXELS).image
    expected = plain_forward(state, PIXELS(images(size=IMAGE_SIZE), IMAGE_SIZE, torch.float32))
    seen = tower(images(size=IMAGE_SIZE))
    torch.testing.assert_close(seen.pooled, expected[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.tokens, expected[:, 1:], rtol=0, atol=1e-4)
    assert (tower.image_size, tower.token_count, seen.tokens.shape) == (64, 4, (3, 4, SIZE))


def test_at_224_pixels_there_are_49_local_tokens():
    state = image_state()
    state["visual.attnpool.positional_embedding"] = torch.zeros(50, WIDTH * 32)
    tower = from_open_clip(CONFIG, {**state, **text_state()}, pixels=PIXELS).image
    assert tower(images(1, size=224)).tokens.shape == (1, 49, SIZE)


def test_the_text_tower_is_transformers_clip():
    tower = from_open_clip(CONFIG, {**image_state(), **text_state()}, pixels=PIXELS).text
    tokens = prompts(5, 9, 3)
    expected = text_model()(input_ids=tokens.ids, attention_mask=tokens.attended.long()).text_embeds
    seen = tower.encode(tower.embed(tokens.ids), tokens.attended)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_the_activation_is_the_configs():
    config = {"model_cfg": {**CONFIG["model_cfg"], "quick_gelu": False}}
    state = {**image_state(), **text_state()}
    both = [from_open_clip(given, state, pixels=PIXELS).text.text.config.hidden_act for given in (CONFIG, config)]
    assert both == ["quick_gelu", "gelu"]


def test_the_model_is_frozen_and_bit_identical_after_use_in_training_mode():
    state = {**image_state(), **text_state()}
    model = Clip(source="here").build_resnet(CONFIG, state, lambda texts, context: prompts(5, 9))
    assert model.scale == pytest.approx(54.598, abs=1e-3)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    before, seen = state_of(model), model.image(images(size=IMAGE_SIZE))
    model.train()
    assert torch.equal(model.image(images(size=IMAGE_SIZE)).tokens, seen.tokens)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_refused():
    state = {**image_state(), **text_state()}
    with pytest.raises(ValueError, match="must be CLIP's ResNet .*, got layers = 12"):
        from_open_clip({"model_cfg": {"vision_cfg": {"layers": 12}}}, state, pixels=PIXELS)
    with pytest.raises(ValueError, match="visual_prompts must be 0 for a ResNet, got 2"):
        Clip(source="here", visual_prompts=2).build_resnet(CONFIG, state, lambda texts, context: prompts(4))
    del state["ln_final.bias"]
    with pytest.raises(ValueError, match=r"not those of a CLIP: 'ln_final.bias'"):
        from_open_clip(CONFIG, state, pixels=PIXELS)
