import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)

from medalign import config
from medalign.build import MODELS
from medalign.errors import UserError
from medalign.multimodal_models import Opened, open_multimodal, save_multimodal
from medalign.packaged_language_model import packaged_language_model
from medalign.vision_towers import open_tower
from medalign_core.models.multimodal.settings import Llava, LoRA

WORDS = [
    "<s>",
    "</s>",
    "<unk>",
    *"the lung is clear what shows image of heart user assistant : . ? ### Human Assistant".split(),
]
TEMPLATE = "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' ' }}{% endfor %}"
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}


def write_language_model(folder: Path, *, template: str | None = TEMPLATE, rows: int = len(WORDS), **extra) -> Path:
    """Write a tiny LLaMA with a tokenizer of whole words."""
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    options = {"vocab_size": rows, "bos_token_id": 0, "eos_token_id": 1, **extra}
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 1}, **options)).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 60, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    CLIPModel(CLIPConfig(vision_config=dict(VISION), text_config=text)).save_pretrained(folder)
    return folder


@pytest.fixture
def parts(tmp_path):
    return {"language": str(write_language_model(tmp_path / "words")), "vision": str(write_clip(tmp_path / "clip"))}


def prompt(opened: Opened) -> tuple[torch.Tensor, torch.Tensor]:
    messages = [{"role": "user", "content": f"{opened.slot} what is the image ?"}]
    tokens = opened.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    return torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.bool)


def images(size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def logits(network, model, tokens: torch.Tensor, size: int = 32) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (model.mean, model.std))
    with torch.no_grad():
        return network.eval()(input_ids=tokens, pixel_values=(images(size).float() / 255 - mean) / std).logits


def test_an_image_is_its_tokens_between_markers(parts):
    opened = open_multimodal(Llava(**parts))
    tokens, _ = prompt(opened)
    start, end = opened.model.markers
    place = (tokens[0] == opened.model.image_token).nonzero().flatten()
    assert len(place) == opened.model.image_tokens == 16
    assert tokens[0, place[0] - 1] == start
    assert tokens[0, place[-1] + 1] == end
    assert opened.tokenizer.pad_token == "[PAD]"


def test_new_tokens_start_as_the_mean_and_old_ones_are_kept(parts):
    opened = open_multimodal(Llava(**parts))
    before = LlamaForCausalLM.from_pretrained(parts["language"])
    known = len(WORDS)
    for after, old in (
        (opened.model.network.get_input_embeddings(), before.get_input_embeddings()),
        (opened.model.network.lm_head, before.lm_head),
    ):
        assert after.weight.shape[0] == known + 4
        assert torch.equal(after.weight[:known], old.weight)
        torch.testing.assert_close(after.weight[known:], old.weight.mean(dim=0).expand(4, -1))


def test_spare_rows_of_a_padded_vocabulary_are_used_before_it_grows(tmp_path, parts):
    parts["language"] = str(write_language_model(tmp_path / "padded", rows=64))
    opened = open_multimodal(Llava(**parts))
    assert opened.model.network.get_input_embeddings().weight.shape[0] == 64
    assert opened.model.image_token == len(WORDS)


@pytest.mark.parametrize("settings", [{}, {"dense": True}, {"projector": "linear"}])
def test_a_saved_model_opens_again_here_and_in_transformers_with_the_same_logits(tmp_path, parts, settings):
    opened = open_multimodal(Llava(**parts, **settings))
    save_multimodal(opened, tmp_path / "saved")
    kind = AutoModelForImageTextToText if settings else LlavaForConditionalGeneration
    again = open_multimodal(Llava(source=str(tmp_path / "saved")))
    tokens, _ = prompt(opened)
    expected = logits(opened.model.network, opened.model, tokens)
    assert torch.equal(logits(again.model.network, again.model, prompt(again)[0]), expected)
    torch.testing.assert_close(
        logits(kind.from_pretrained(tmp_path / "saved"), opened.model, tokens), expected, atol=1e-5, rtol=0
    )
    assert (again.slot, again.model.markers) == (opened.slot, opened.model.markers)
    assert (again.model.mean, again.model.std) == (opened.model.mean, opened.model.std)


def test_what_stage_1_learnt_beside_the_network_is_saved_in_it(tmp_path, parts):
    opened = open_multimodal(Llava(**parts, stage=1))
    with torch.no_grad():
        opened.model.new_rows += 1.0
    save_multimodal(opened, tmp_path / "saved")
    again = open_multimodal(Llava(source=str(tmp_path / "saved"), stage=2))
    rows = again.model.network.get_input_embeddings().weight[list(again.model.markers)]
    assert torch.equal(rows, opened.model.new_rows)


def test_low_rank_updates_are_saved_in_the_weights_they_update(tmp_path, parts):
    pytest.importorskip("peft")
    opened = open_multimodal(Llava(**parts, lora=LoRA(rank=2)))
    torch.manual_seed(0)
    for name, parameter in opened.model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter)
    tokens, _ = prompt(opened)
    expected = logits(opened.model.network, opened.model, tokens)
    save_multimodal(opened, tmp_path / "saved")
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(again, opened.model, tokens), expected, atol=1e-5, rtol=1e-5)


def test_a_projector_depends_on_the_seed_and_on_nothing_drawn_before(parts):
    def weight(seed):
        torch.rand(seed + 1)
        return open_multimodal(Llava(**parts), seed=seed).model.network.model.multi_modal_projector.linear_1.weight

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_the_image_half_of_clip_and_siglip_and_a_classifiers_vit_open_whole(tmp_path):
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 60}
    wholes = {
        "clip": CLIPModel.from_pretrained(write_clip(tmp_path / "clip")).vision_model,
        "siglip": SiglipModel(SiglipConfig(vision_config=dict(VISION), text_config=text)),
        "vit": ViTForImageClassification(ViTConfig(**VISION)),
    }
    for name, whole in wholes.items():
        if name != "clip":
            whole.save_pretrained(tmp_path / name)
        tower = open_tower(str(tmp_path / name)).network.eval()
        half = {"clip": whole, "siglip": getattr(whole, "vision_model", None), "vit": getattr(whole, "vit", None)}[name]
        pixels = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(tower(pixels).last_hidden_state, half.eval()(pixels).last_hidden_state), name


def test_a_tower_takes_the_normalisation_it_was_saved_with(tmp_path):
    folder = write_clip(tmp_path / "clip")
    assert open_tower(str(folder)).mean[0] == pytest.approx(0.48145466)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]})
    )
    assert open_tower(str(folder))[1:] == ((0.1, 0.2, 0.3), (1, 2, 3))


def test_a_language_model_without_a_chat_template_needs_the_published_one(tmp_path, parts):
    parts["language"] = str(write_language_model(tmp_path / "plain", template=None))
    with pytest.raises(UserError, match="its tokenizer has no chat template; set model.chat: v0"):
        open_multimodal(Llava(**parts))
    tokenizer = open_multimodal(Llava(**parts, chat="v0")).tokenizer
    messages = [{"role": "user", "content": "what ?"}, {"role": "assistant", "content": "lung ."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text.startswith("<s>A chat between a curious human")
    assert text.endswith("human's questions.\n\n### Human: what ?\n### Assistant: lung .\n### ")
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("### Human: what ?\n### Assistant:")
    told = tokenizer.apply_chat_template([{"role": "system", "content": "be brief"}, *messages], tokenize=False)
    assert told.startswith("<s>be brief\n\n### Human: what ?")


@pytest.mark.parametrize("key", ["vision", "language", "source"])
def test_what_cannot_be_opened_is_named(tmp_path, parts, key):
    with pytest.raises(UserError, match=f"model.{key} = {tmp_path}/nothing"):
        open_multimodal(Llava(**{**parts, key: f"{tmp_path}/nothing"}))


def test_weights_that_are_missing_are_named_and_never_drawn_at_random(tmp_path, parts):
    from safetensors.torch import load_file, save_file

    for key, lost in (("language", "model.norm.weight"), ("vision", "vision_model.post_layernorm.bias")):
        file = Path(parts[key]) / "model.safetensors"
        weights = load_file(file)
        kept = {name: value for name, value in weights.items() if name != lost}
        assert len(kept) == len(weights) - 1
        save_file(kept, file, metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"model.{key} = .*1 weights do not fit its config"):
            open_multimodal(Llava(**parts))
        save_file(weights, file, metadata={"format": "pt"})


def test_a_tower_of_another_kind_is_refused(parts):
    with pytest.raises(UserError, match="a llama; towers are CLIP, SigLIP or ViT"):
        open_tower(parts["language"])


def test_a_recipe_says_the_model_by_type():
    from medalign.build import ModelSection

    assert MODELS["llava"] == "medalign_core.models.multimodal.settings:Llava"
    text = f"model: {{type: '{MODELS['llava']}', stage: 1, text_nodes: in_context}}"
    assert config.build(ModelSection, config.loads(text, source="r.yaml")).model == Llava(
        stage=1, text_nodes="in_context"
    )
    text = f"model: {{type: '{MODELS['llava']}', stage: vqa, lora: {{rank: 4}}}}"
    built = config.build(ModelSection, config.loads(text, source="r.yaml")).model
    assert built == Llava(stage="vqa", lora=LoRA(rank=4))


@pytest.mark.slow
def test_the_packaged_language_model_speaks_sees_and_is_made_anew_where_damaged(tmp_path):
    pytest.importorskip("gguf")
    place = packaged_language_model(tmp_path)
    made = (place / "model.safetensors").stat().st_mtime_ns
    assert packaged_language_model(tmp_path) == place
    assert (place / "model.safetensors").stat().st_mtime_ns == made
    assert not any(file.name.startswith(".") for file in tmp_path.iterdir())
    opened = open_multimodal(Llava())
    assert opened.model.image_tokens == 49
    sentence = "The heart size is within normal limits and the lungs are clear."
    ids = opened.tokenizer(sentence, return_tensors="pt").input_ids
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    network = opened.model.network.eval()
    with torch.no_grad():
        said, scrambled = (float(network(input_ids=t, labels=t).loss) for t in (ids, shuffled))
    assert said < 5.5 < 7.5 < scrambled
    save_multimodal(opened, tmp_path / "saved")
    again = open_multimodal(Llava(source=str(tmp_path / "saved")))
    tokens, _ = prompt(again)
    assert torch.equal(
        logits(again.model.network, again.model, tokens, 224), logits(network, opened.model, tokens, 224)
    )
    with open(place / "model.safetensors", "r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"\xff\xff\xff\xff")
    assert packaged_language_model(tmp_path) == place
    assert (place / "model.safetensors").stat().st_mtime_ns != made


@pytest.mark.parametrize("attention", ["medalign_varlen", "eager"])
def test_the_language_model_attends_as_the_settings_say_whether_opened_in_parts_or_whole(tmp_path, parts, attention):
    opened = open_multimodal(Llava(**parts, attention=attention))
    save_multimodal(opened, tmp_path / "saved")
    whole = open_multimodal(Llava(source=str(tmp_path / "saved"), attention=attention))
    for model in (opened.model, whole.model):
        assert model.decoder.config._attn_implementation == attention
        assert model.decoder.layers[0].self_attn.config._attn_implementation == attention
        assert model.network.model.vision_tower.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attention", ["medalign_varlen", "sdpa"])
def test_texts_are_packed_in_bfloat16_as_well(parts, attention):
    model = open_multimodal(Llava(**parts, dtype="bfloat16", attention=attention)).model
    assert model.decoder.dtype == torch.bfloat16
