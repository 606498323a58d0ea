import pytest
import torch
from dual_towers import clip_model, images, prompts, state_of

from medalign_core.models.dual.clip import ClipImageTower, ClipTextTower
from medalign_core.models.dual.pixels import CLIP_MEAN, CLIP_STD, Normalisation
from medalign_core.models.dual.settings import Clip
from medalign_core.models.dual.visual_prompts import PromptedClipTower, VisualPrompts

PIXELS = Normalisation(CLIP_MEAN, CLIP_STD)


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pictures.float() / 255 - mean) / std


def test_the_pooled_image_feature_is_clips_and_every_patch_has_a_token_in_the_joint_space():
    model = clip_model()
    tower = ClipImageTower(model, pixels=PIXELS)
    seen = tower(images())
    expected = model.get_image_features(pixel_values=normalised(images())).pooler_output
    torch.testing.assert_close(seen.pooled, expected, rtol=0, atol=1e-5)
    hidden = model.vision_model(pixel_values=normalised(images())).last_hidden_state
    patches = model.visual_projection(model.vision_model.post_layernorm(hidden[:, 1:]))
    torch.testing.assert_close(seen.tokens, patches, rtol=0, atol=1e-5)
    assert seen.tokens.shape == (3, tower.token_count, 24) == (3, 16, 24)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_text_feature_is_clips_whatever_the_attention(attention):
    model = clip_model()
    model.set_attn_implementation(attention)
    tokens = prompts(5, 9, 3)
    expected = model.get_text_features(input_ids=tokens.ids, attention_mask=tokens.attended.long()).pooler_output
    tower = ClipTextTower(model.text_model, model.text_projection)
    features = tower.encode(tower.embed(tokens.ids), tokens.attended)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_the_feature_is_the_end_tokens_even_where_padding_has_the_same_id():
    model = clip_model()
    tower = ClipTextTower(model.text_model, model.text_projection)
    tokens = prompts(5, 9)
    same = tokens.ids.masked_fill(~tokens.attended, 63)
    torch.testing.assert_close(
        tower.encode(tower.embed(same), tokens.attended), tower.encode(tower.embed(tokens.ids), tokens.attended)
    )


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="takes 32 x 32 pixels, got 16 x 16"):
        ClipImageTower(clip_model(), pixels=PIXELS)(images(size=16))


def test_visual_prompts_give_one_class_token_each_and_their_mean():
    model = clip_model()
    prompted = PromptedClipTower(ClipImageTower(model, pixels=PIXELS), VisualPrompts(3, 2, 48))
    seen = prompted(images())
    assert seen.tokens.shape == (3, prompted.token_count, 24) == (3, 3, 24)
    torch.testing.assert_close(seen.pooled, seen.tokens.mean(1))
    embedded = model.vision_model.embeddings(normalised(images()))
    appended = torch.cat((embedded, prompted.prompts.vectors[1].expand(3, -1, -1)), 1)
    hidden = model.vision_model.encoder(inputs_embeds=model.vision_model.pre_layrnorm(appended)).last_hidden_state
    second = model.visual_projection(model.vision_model.post_layernorm(hidden[:, 0]))
    torch.testing.assert_close(seen.tokens[:, 1], second, rtol=0, atol=1e-5)


def test_of_a_prompted_clip_only_the_visual_prompts_learn_and_the_rest_is_bit_identical_after_a_step():
    torch.manual_seed(0)
    model = Clip(source="here", visual_prompts=2).build(clip_model(), lambda texts, context: prompts(4))
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == ["image.prompts.vectors"]
    before = state_of(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    tokens = model.image(images()).tokens
    tokens.square().sum().backward()
    assert model.image.prompts.vectors.grad.abs().amin(dim=(1, 2)).gt(0).all()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"image.prompts.vectors"}


def test_visual_prompts_of_another_width_are_refused():
    with pytest.raises(ValueError, match="must be 48 wide, got 32"):
        PromptedClipTower(ClipImageTower(clip_model(), pixels=PIXELS), VisualPrompts(3, 2, 32))


def test_the_scale_is_the_exponential_of_clips():
    model = clip_model()
    built = Clip(source="here").build(model, lambda texts, context: prompts(4))
    assert built.scale == pytest.approx(model.logit_scale.exp().item())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": " "}, "source must name"),
        ({"source": "a", "visual_prompts": -1}, "visual_prompts must be >= 0"),
        ({"source": "a", "visual_prompt_length": 0}, "visual_prompt_length >= 1"),
        ({"source": "a", "std": (0.0, 1.0, 1.0)}, "std must be > 0"),
    ],
)
def test_settings_out_of_range_raise(given, message):
    with pytest.raises(ValueError, match=message):
        Clip(**given)
