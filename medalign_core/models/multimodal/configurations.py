"""Configurations of the architectures that transformers lacks, and how many tokens an image becomes: no models.

Importing this file registers them with transformers' AutoConfig.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlavaConfig, PreTrainedConfig

CHANNELS, PIXELS_PER_CELL = 1280, 32  # of EfficientNet-Lite0's last map


class EfficientNetLite0Config(PreTrainedConfig):
    """What there is to say about an EfficientNet-Lite0 tower: its image size."""

    model_type = "medalign_efficientnet_lite0"

    def __init__(self, image_size: int = 224, **options: Any) -> None:
        super().__init__(**options)
        self.image_size = image_size
        self.hidden_size = CHANNELS


class MedAlignLlavaConfig(LlavaConfig):
    """transformers' LlavaConfig and what it cannot say.

    Attributes:
        projector_kind: "mlp2x_gelu" or "linear".
        dense_channels: dense channel integration (see `visual_features`).
    """

    model_type = "medalign_llava"
    projector_kind: str = "mlp2x_gelu"
    dense_channels: bool = False


def image_tokens(vision_config: PreTrainedConfig) -> int:
    """Return M, how many tokens an image becomes."""
    if vision_config.model_type == EfficientNetLite0Config.model_type:
        return (-(-vision_config.image_size // PIXELS_PER_CELL)) ** 2
    return (vision_config.image_size // vision_config.patch_size) ** 2


for _config in (EfficientNetLite0Config, MedAlignLlavaConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
