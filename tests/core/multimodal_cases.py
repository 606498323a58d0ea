"""Tiny random multimodal models and batches for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from medalign_core.models.multimodal.architecture import EfficientNetLite0Config, EfficientNetLite0Tower
from medalign_core.models.multimodal.assembling import assemble
from medalign_core.models.multimodal.batch import IGNORED, ChatBatch
from medalign_core.models.multimodal.model import MultimodalModel
from medalign_core.models.multimodal.settings import Llava
from medalign_core.types import DrawKey

VOCABULARY, IMAGE, START, END, PADDING = 96, 93, 94, 95, 0
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


def tower(kind: str = "clip") -> Any:
    """Return a tower with random weights; clip, siglip and vit see 16 patches, efficientnet 4 cells."""
    if kind == "clip":
        return CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=32, patch_size=8))
    if kind == "siglip":
        return SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=32, patch_size=8))
    if kind == "vit":
        return ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8))
    return EfficientNetLite0Tower(EfficientNetLite0Config(image_size=64))


def language_model(*, tied: bool = False, attention: str = "sdpa") -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=PADDING,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation=attention)


def build(kind: str = "clip", *, tied: bool = False, seed: int = 0, **settings: Any) -> MultimodalModel:
    """Return a tiny model; the same seed and kind give the same weights whatever the settings."""
    chosen = Llava(**{"loss_chunks": 2, **settings})
    torch.manual_seed(seed)
    parts = tower(kind), language_model(tied=tied, attention=chosen.attention)
    network = assemble(*parts, chosen, image_token=IMAGE)
    return chosen.build(network, markers=(START, END))


def batch(model: MultimodalModel, rows: int = 3, *, seed: int = 0, without_image: tuple[int, ...] = ()) -> ChatBatch:
    """Return conversations of unlike lengths: start, image, end, 3 to 5 of question, 4 to 8 of answer."""
    draws = torch.Generator().manual_seed(seed)
    size = model.network.config.vision_config.image_size
    images = torch.randint(0, 256, (rows, 3, size, size), generator=draws, dtype=torch.uint8)
    conversations, labels, answers, extended = [], [], [], []
    for row in range(rows):
        image = [] if row in without_image else [START, *[IMAGE] * model.image_tokens, END]
        question, answer = _words(3 + row % 3, draws), _words(4 + 2 * row % 5, draws)
        conversations.append([1, *image, *question, *answer])
        labels.append([IGNORED] * (1 + len(image) + len(question)) + answer)
        answers.append([1, *answer])
        extended.append([1, *_words(9 - row, draws), *answer])
    has_image = torch.tensor([row not in without_image for row in range(rows)])
    tokens, attended = padded(conversations)
    return ChatBatch(
        images=images * has_image[:, None, None, None],
        has_image=has_image,
        conversation_tokens=tokens,
        conversation_attended=attended,
        conversation_labels=torch.where(attended, padded(labels)[0], IGNORED),
        answer_tokens=padded(answers)[0],
        answer_attended=padded(answers)[1],
        extended_tokens=padded(extended)[0],
        extended_attended=padded(extended)[1],
        image_ids=torch.arange(rows),
        answer_ids=torch.arange(rows),
        valid=torch.ones(rows, dtype=torch.bool),
        ids=torch.arange(rows),
        key=DrawKey(seed, 0, 0),
    )


def padded(rows: list[list[int]], *, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows)) + extra
    tokens = torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows])
    attended = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return tokens, attended


def longer(given: ChatBatch, extra: int) -> ChatBatch:
    """Return the batch with every text padded further."""
    changed = {}
    for name in ("conversation_tokens", "answer_tokens", "extended_tokens", "conversation_labels"):
        value = IGNORED if name.endswith("labels") else PADDING
        changed[name] = torch.nn.functional.pad(getattr(given, name), (0, extra), value=value)
    for name in ("conversation_attended", "answer_attended", "extended_attended"):
        changed[name] = torch.nn.functional.pad(getattr(given, name), (0, extra), value=False)
    return replace(given, **changed)


def _words(count: int, draws: torch.Generator) -> list[int]:
    return torch.randint(3, 90, (count,), generator=draws).tolist()
