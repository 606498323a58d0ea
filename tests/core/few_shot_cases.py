"""A tiny CLIP, class texts and features, shared by the tests of few-shot methods."""

from __future__ import annotations

import torch
from torch import Tensor

from medalign_core.models.dual.encoder import DualEncoder, VisualTokens
from medalign_core.models.dual.settings import Clip
from medalign_core.models.dual.tokens import PromptTokenizer
from medalign_core.objectives.few_shot.contract import ClassTexts, FeatureBatch, Support
from medalign_core.ops.draws import generator
from medalign_core.types import DrawKey

NAMES = ("healthy lung", "edema", "large pleural effusion", "nodule")
SENTENCES = ("clear fields on both sides", "bat wing shadow", "blunted angle", "round spot", "white base", "thick wall")
DESCRIPTIONS = tuple(tuple(SENTENCES[(c + k) % 6] + f" kind {c}" for k in range(4)) for c in range(4))


def split(texts: list[str]) -> list[list[int]]:
    """Words to ids, the same in every process."""
    return [[3 + sum(map(ord, word)) % 90 for word in text.replace(".", " .").split()] for text in texts]


def tiny_clip(*, dtype: torch.dtype = torch.float32, layers: int = 3, scale: float = 20.0) -> DualEncoder:
    """A random CLIP, 16 wide, whose joint space has 12 dimensions."""
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**size, "vocab_size": 100, "max_position_embeddings": 32, "eos_token_id": 1, "pad_token_id": 2},
        vision_config={**size, "image_size": 8, "patch_size": 4},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
    words = generator("few-shot", "words")
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.normal_(generator=words)  # names must differ
        for block in model.text_model.encoder.layers:
            for part in block.modules():
                if isinstance(part, torch.nn.Linear):
                    part.weight.normal_(std=0.25, generator=words)
        model.logit_scale.fill_(scale).log_()
    tokenize = PromptTokenizer(split=split, start=0, end=1, padding=2, placeholder=3, context_length=32)
    return Clip(source="tiny").build(model.to(dtype), tokenize)


def class_texts(*, descriptions: tuple[tuple[str, ...], ...] = DESCRIPTIONS) -> ClassTexts:
    return ClassTexts(names=NAMES, template="a photo of a {}.", descriptions=descriptions)


def features(
    images: int, tokens: int = 5, *, size: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32
) -> VisualTokens:
    """Random visual tokens, far from unit length."""
    draws = generator("few-shot", seed)
    local = 3 * torch.randn(images, tokens, size, generator=draws, dtype=torch.float64)
    return VisualTokens(local.to(dtype), (local.mean(1) + torch.randn(size, generator=draws)).to(dtype))


def batch_of(
    found: VisualTokens, labels: Tensor | None = None, *, views: int = 1, valid: Tensor | None = None, step: int = 0
) -> FeatureBatch:
    """A batch whose images are `views` rows of the features each."""
    count = len(found.pooled) // views
    return FeatureBatch(
        tokens=found.tokens.unflatten(0, (count, views)),
        pooled=found.pooled.unflatten(0, (count, views)),
        labels=torch.arange(count) % len(NAMES) if labels is None else labels,
        valid=torch.ones(count, dtype=torch.bool) if valid is None else valid,
        key=DrawKey(0, step, 0),
    )


def support_of(found: VisualTokens) -> Support:
    return Support(features=found, labels=torch.arange(len(found.pooled)) % len(NAMES))


def train(method, batch: FeatureBatch, *, steps: int, rate: float = 0.01) -> list[float]:
    """Adam on one batch; returns the losses."""
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss, _ = method(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
