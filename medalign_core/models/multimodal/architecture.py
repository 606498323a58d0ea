"""Architectures that transformers' Llava lacks: a linear projector, dense channel integration, a convolutional tower.

Importing this file registers them, so that `AutoModelForImageTextToText.from_pretrained` opens what was saved, without
remote code. Wherever transformers has the architecture its own LlavaForConditionalGeneration is used instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

import medalign_core.models.multimodal.varlen  # noqa: F401  # an implementation of attention a saved model may name
from medalign_core.models.dual.efficientnet import EfficientNetLite0
from medalign_core.models.multimodal.configurations import EfficientNetLite0Config, MedAlignLlavaConfig


class EfficientNetLite0Tower(PreTrainedModel):
    """EfficientNet-Lite0 as a tower of tokens: the cells of its last map, row by row, are its one hidden state."""

    config_class = EfficientNetLite0Config
    main_input_name = "pixel_values"
    base_model_prefix = "tower"
    # it attends to nothing, so any implementation of attention suits it
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: EfficientNetLite0Config) -> None:
        super().__init__(config)
        self.network = EfficientNetLite0()
        self.post_init()

    def forward(self, pixel_values: Tensor, **options: Any) -> BaseModelOutput:
        """Return the (B, R S, 1280) cells of the last map as `last_hidden_state` and as the one of `hidden_states`."""
        cells = self.network(pixel_values).flatten(2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=cells, hidden_states=(cells,))


class MedAlignLlavaModel(LlavaModel):
    """transformers' LlavaModel with any projector over the features of `visual_features`."""

    config_class = MedAlignLlavaConfig

    multi_modal_projector: Any
    config: Any

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = new_projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **options: Any) -> BaseModelOutputWithPooling:
        """Return the projected image tokens as `pooler_output`, B times (M, D), as Llava has them."""
        states = self.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        features = visual_features(
            states,
            layer=self.config.vision_feature_layer,
            has_class_token=self.config.vision_feature_select_strategy == "default",
            dense=self.config.dense_channels,
        )
        projected: Any = list(self.multi_modal_projector(features))
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=projected)


class MedAlignLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """transformers' LlavaForConditionalGeneration around a MedAlignLlavaModel.

    A head that shares the embeddings' weights finds them whatever the language model calls them; Llava knows one name.
    """

    config_class = MedAlignLlavaConfig

    def __init__(self, config: Any) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = MedAlignLlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self._tied_weights_keys = {
            "lm_head.weight": f"model.language_model.{embedding_name(self.model.language_model)}"
        }
        self.post_init()


def visual_features(states: tuple[Tensor, ...], *, layer: int, has_class_token: bool, dense: bool = False) -> Tensor:
    """Return the (B, M, C) features that a projector reads, or (B, M, 3 C) with dense channel integration.

    With S + 1 hidden states h_0 .. h_S, embeddings first, and H = floor(S / 2), the dense channels are, in this order,
    [h_layer, mean(h_0 .. h_{H-1}), mean(h_H .. h_{2H-1})]: for a ViT-L of 24 blocks h_0 .. h_11 and h_12 .. h_23.

    Args:
        states: the tower's hidden states, each (B, M, C) or, with a class token first, (B, 1 + M, C).
        layer: the tap, an index into them.
        has_class_token: leave it out.
        dense: with the means of the two halves.

    Raises:
        ValueError: no such layer, or fewer than two blocks to take means of.
    """
    if not -len(states) <= layer < len(states):
        raise ValueError(f"feature_layer must be in [{-len(states)}, {len(states)}) for this tower, got {layer}.")
    if not dense:
        parts = [states[layer]]
    else:
        half = (len(states) - 1) // 2
        if half < 1:
            raise ValueError(f"dense needs a tower of two blocks at least, got {len(states) - 1}.")
        means = [torch.stack(states[start : start + half]).mean(dim=0) for start in (0, half)]
        parts = [states[layer], *means]
    tokens = torch.cat(parts, dim=-1)
    return tokens[:, 1:] if has_class_token else tokens


def new_projector(config: Any) -> nn.Module:
    """Return the projector of a MedAlignLlavaConfig, with random weights from torch's global generator."""
    width = config.vision_config.hidden_size * (3 if config.dense_channels else 1)
    out = config.text_config.hidden_size
    if config.projector_kind == "linear":
        return nn.Linear(width, out)
    return nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))


def embedding_name(decoder: Any) -> str:
    """Return the name of a decoder's embedding matrix, "embed_tokens.weight" in most."""
    embedding = decoder.get_input_embeddings()
    return next(f"{name}.weight" for name, module in decoder.named_modules() if module is embedding)


def _register() -> None:
    for config, model in (
        (EfficientNetLite0Config, EfficientNetLite0Tower),
        (MedAlignLlavaConfig, MedAlignLlavaModel),
    ):
        AutoModel.register(config, model, exist_ok=True)
    AutoModelForImageTextToText.register(MedAlignLlavaConfig, MedAlignLlavaForConditionalGeneration, exist_ok=True)


_register()
