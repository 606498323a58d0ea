"""BiomedCLIP: a timm ViT and a BERT as open_clip saves them, rebuilt without timm and open_clip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from medalign_core.models.dual.bert import BertTextTower
from medalign_core.models.dual.encoder import ImageTower, VisualTokens
from medalign_core.models.dual.pixels import CLIP_MEAN, CLIP_STD, Normalisation
from medalign_core.models.dual.vit import TimmViT

CONTEXT_LENGTH = 256
BERT_HEAD_WIDTH = 64  # of every BERT from medium to large; the checkpoint does not say it
# what older releases of transformers saved along, and a pooler that this way of pooling does not use
UNUSED = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight", "pooler.dense.bias")


class Towers(NamedTuple):
    """What a checkpoint holds; `scale` is the exponential of its logit_scale."""

    image: BiomedImageTower
    text: BertTextTower
    scale: float


class BiomedImageTower(ImageTower):
    """Patch tokens and class token, each projected by the one linear head that the class token was trained with."""

    def __init__(self, trunk: TimmViT, projection: nn.Linear, *, pixels: Normalisation) -> None:
        super().__init__()
        self.trunk, self.projection, self.pixels = trunk, projection, pixels
        self.image_size, self.token_count = trunk.grid * trunk.patch_size, trunk.grid**2

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return the patch tokens, row by row from the top left, and the class token."""
        pixels = self.pixels(images, self.image_size, self.projection.weight.dtype)
        features = self.projection(self.trunk(pixels))
        return VisualTokens(features[:, 1:], features[:, 0])


def from_open_clip(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Towers:
    """Return the towers of an open_clip checkpoint.

    Args:
        config: what `open_clip_config.json` holds.
        state: the state dict: `visual.trunk.*`, `visual.head.proj.weight`, `text.transformer.*`, `text.proj.*`,
            `logit_scale`. All sizes are read from the shapes.

    Raises:
        ValueError: an architecture that is not BiomedCLIP's, or weights that do not fit it.
    """
    model = config.get("model_cfg", {})
    _check_architecture(model.get("vision_cfg", {}), model.get("text_cfg", {}))
    seen = config.get("preprocess_cfg", {})
    pixels = Normalisation(tuple(seen.get("mean", CLIP_MEAN)), tuple(seen.get("std", CLIP_STD)))
    try:
        image = _image_tower(_below(state, "visual."), pixels)
        text = _text_tower(_below(state, "text."), model["text_cfg"].get("context_length", CONTEXT_LENGTH))
        return Towers(image, text, math.exp(float(state["logit_scale"])))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the weights are not those of a BiomedCLIP: {' '.join(str(error).split())[:200]}") from error


def _check_architecture(vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    known: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("timm_pool", vision.get("timm_pool"), ("", "token")),  # "" is the network's own: the class token
        ("timm_proj", vision.get("timm_proj"), ("linear",)),
        ("hf_proj_type", text.get("hf_proj_type"), ("mlp", "linear")),
        ("hf_pooler_type", text.get("hf_pooler_type"), ("cls_last_hidden_state_pooler",)),
    )
    if not str(vision.get("timm_model_name", "")).startswith("vit_"):
        raise ValueError(f"timm_model_name must be a vit_*, got {vision.get('timm_model_name')!r}.")
    for name, value, allowed in known:
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _image_tower(state: dict[str, Tensor], pixels: Normalisation) -> BiomedImageTower:
    trunk_state = _below(state, "trunk.")
    trunk = TimmViT.shaped_like(trunk_state)
    trunk.load_state_dict(trunk_state)
    return BiomedImageTower(trunk, _linear(state["head.proj.weight"]), pixels=pixels)


def _text_tower(state: dict[str, Tensor], context_length: int) -> BertTextTower:
    from transformers import BertConfig, BertModel

    weights = {name: value for name, value in _below(state, "transformer.").items() if name not in UNUSED}
    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder.layer.")),
        num_attention_heads=width // BERT_HEAD_WIDTH,
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights["embeddings.token_type_embeddings.weight"]),
    )
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(weights)
    return BertTextTower(bert, head=_text_head(state), pooling="first", context_length=context_length)


def _text_head(state: dict[str, Tensor]) -> nn.Module:
    """Return the projection: one linear map, or two with a GELU between, none with a bias."""
    if "proj.weight" in state:
        return _linear(state["proj.weight"])
    return nn.Sequential(_linear(state["proj.0.weight"]), nn.GELU(), _linear(state["proj.2.weight"]))


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
