"""Small random dual encoders, saved as transformers and open_clip save them, in exactly their naming."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, PreTrainedTokenizerFast

WORDS = ("[PAD]", "[UNK]", "<start>", "x", "a", "photo", "of", "cat", "dog", "<end>")


def save_tokenizer(folder: Path, words: tuple[str, ...] = WORDS, **ends: str) -> None:
    words_to_ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(words_to_ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(4)  # as MiniLM's is saved: it must not cut
    tokenizer.enable_padding()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", **ends).save_pretrained(folder)


def save_clip(folder: Path, **changes) -> CLIPModel:
    torch.manual_seed(0)
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 9}
    vision = {**small, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config={**text, "pad_token_id": 0, **changes}, vision_config=vision, projection_dim=16)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder, bos_token="<start>", eos_token="<end>")
    return model


def save_biomed_clip(folder: Path, *, kind: str) -> None:
    """Write a small random checkpoint in exactly the naming of open_clip's."""
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=48,
            max_position_embeddings=12,
        ),
        add_pooling_layer=False,
    )
    state = {f"text.transformer.{name}": value for name, value in bert.state_dict().items()}
    sizes = {"cls_token": (1, 1, 64), "pos_embed": (1, 17, 64), "patch_embed.proj.weight": (64, 3, 8, 8)}
    sizes |= {"patch_embed.proj.bias": (64,), "norm.weight": (64,), "norm.bias": (64,)}
    for index in range(2):
        for name, shape in (("attn.qkv", (192, 64)), ("attn.proj", (64, 64)), ("mlp.fc1", (80, 64))):
            sizes |= {f"blocks.{index}.{name}.weight": shape, f"blocks.{index}.{name}.bias": shape[:1]}
        sizes |= {f"blocks.{index}.mlp.fc2.weight": (64, 80), f"blocks.{index}.mlp.fc2.bias": (64,)}
        sizes |= {f"blocks.{index}.norm{n}.{part}": (64,) for n in (1, 2) for part in ("weight", "bias")}
    state |= {f"visual.trunk.{name}": torch.randn(shape) for name, shape in sizes.items()}
    state |= {"visual.head.proj.weight": torch.randn(16, 64), "logit_scale": torch.tensor(3.0)}
    state |= {"text.proj.0.weight": torch.randn(40, 64), "text.proj.2.weight": torch.randn(16, 40)}
    folder.mkdir(exist_ok=True)
    if kind == "bin":
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(state, folder / kind)
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 10}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_tokenizer(folder, cls_token="<start>", sep_token="<end>")


def save_clip_resnet(folder: Path) -> None:
    """Write a small random CLIP with a ResNet in open_clip's naming."""
    torch.manual_seed(0)
    shapes = {"token_embedding.weight": (len(WORDS), 64), "positional_embedding": (12, 64), "text_projection": (64, 16)}
    shapes |= {"logit_scale": (), "ln_final.weight": (64,), "ln_final.bias": (64,)}
    at = "transformer.resblocks.0."
    for name, shape in (("attn.in_proj_", (192, 64)), ("attn.out_proj.", (64, 64)), ("mlp.c_fc.", (48, 64))):
        shapes |= {f"{at}{name}weight": shape, f"{at}{name}bias": shape[:1]}
    shapes |= {f"{at}mlp.c_proj.weight": (64, 48), f"{at}mlp.c_proj.bias": (64,)}
    shapes |= {f"{at}ln_{n}.{part}": (64,) for n in (1, 2) for part in ("weight", "bias")}
    convolutions = {"conv1": (2, 3, 3), "conv2": (2, 2, 3), "conv3": (4, 2, 3)}
    for stage in range(4):
        inputs, width, block = 4 if stage == 0 else 8 * 2**stage, 4 * 2**stage, f"layer{stage + 1}.0."
        convolutions |= {f"{block}conv1": (width, inputs, 1), f"{block}conv2": (width, width, 3)}
        convolutions |= {f"{block}conv3": (4 * width, width, 1), f"{block}downsample.0": (4 * width, inputs, 1)}
    for name, (outputs, inputs, kernel) in convolutions.items():
        norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        shapes[f"visual.{name}.weight"] = (outputs, inputs, kernel, kernel)
        shapes |= {f"visual.{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    shapes["visual.attnpool.positional_embedding"] = (2, 128)
    for name, outputs in (("q", 128), ("k", 128), ("v", 128), ("c", 16)):
        shapes |= {
            f"visual.attnpool.{name}_proj.weight": (outputs, 128),
            f"visual.attnpool.{name}_proj.bias": (outputs,),
        }
    save_file({name: torch.rand(shape) for name, shape in shapes.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": {"layers": [1, 1, 1, 1]}}}))
    save_tokenizer(folder, bos_token="<start>", eos_token="<end>")
