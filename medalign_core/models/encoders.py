"""Image encoders: a transformers backbone that takes uint8 images and gives a feature map and its mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from medalign_core.models import sam as sam_reader
from medalign_core.models.sam import SamReading
from medalign_core.types import ImageFeatures

if TYPE_CHECKING:
    from medalign_core.models.settings import ResNet, ViT


class ImageEncoder(nn.Module):
    """A backbone between raw pixels and features.

    Attributes:
        backbone: a transformers ResNetModel, ViTModel or SamVisionModel; saved by its own `save_pretrained`, it loads
            anywhere.
        feature_size: D, the channels of its last feature map.
        mean: what is subtracted from each of R, G, B in [0, 1].
        std: what is divided by, per channel.

    Raises:
        TypeError: a backbone of another kind.
    """

    def __init__(
        self, backbone: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...], sam: SamReading | None = None
    ) -> None:
        super().__init__()
        config: Any = getattr(backbone, "config", None)
        kind = getattr(config, "model_type", None)
        if kind not in ("resnet", "vit", sam_reader.KIND):
            raise TypeError(
                "the backbone must be a transformers ResNetModel, ViTModel or SamVisionModel, "
                f"got {type(backbone).__name__}."
            )
        self.backbone = backbone
        self.feature_size: int = config.hidden_sizes[-1] if kind == "resnet" else config.hidden_size
        self._config = config
        self._is_transformer = kind != "resnet"
        self._sam = (sam or SamReading()) if kind == sam_reader.KIND else None
        if self._sam and self._sam.features == "neck":
            self.feature_size = config.output_channels
        # plain numbers, not buffers: an engine that casts the module to bfloat16 would round them
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> ImageFeatures:
        """Return the last feature map and its mean over cells, in the backbone's floating type.

        Pixels are scaled to [0, 1] and normalised in float32, whatever the backbone's type. A transformer's class token
        is left out of both; the map then has H / patch rows and W / patch columns.
        """
        pixels = self.normalise(images).to(self._parameter_type())
        if self._sam:
            feature_map = sam_reader.sam_map(self.backbone, pixels, self._sam)
        elif not self._is_transformer:
            feature_map = self.backbone(pixel_values=pixels).last_hidden_state
        else:
            size = self._config.image_size
            other_size = tuple(pixels.shape[-2:]) != ((size, size) if isinstance(size, int) else tuple(size))
            tokens = self.backbone(pixel_values=pixels, interpolate_pos_encoding=other_size).last_hidden_state[:, 1:]
            patch = self._config.patch_size
            grid = (images.shape[-2] // patch, images.shape[-1] // patch)
            feature_map = tokens.transpose(1, 2).unflatten(2, grid)
        return ImageFeatures(map=feature_map, pooled=feature_map.mean(dim=(2, 3)))

    @property
    def map_channels(self) -> tuple[int, ...]:
        """The channels of the maps that `maps` returns."""
        if self._is_transformer:
            return (self.feature_size,)
        sizes = tuple(self._config.hidden_sizes)
        return (self._config.embedding_size, *sizes) if self._config.downsample_in_first_stage else sizes

    @property
    def finest_stride(self) -> int:
        """How many pixels of a side one cell of the finest map stands for."""
        return self._config.patch_size if self._is_transformer else 4

    def maps(self, images: UInt8[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Return the feature map of every resolution, the finest first: (B, D_l, R_l, S_l) each.

        Of a ResNet these are the last map of each stage (and the stem's, where the first stage halves it); a
        transformer has one.
        """
        if self._is_transformer:
            return (self(images).map,)
        pixels = self.normalise(images).to(self._parameter_type())
        states = self.backbone(pixel_values=pixels, output_hidden_states=True).hidden_states
        return tuple(states if self._config.downsample_in_first_stage else states[1:])

    def normalise(self, images: Tensor) -> Tensor:
        """Return pixels in float32, scaled to [0, 1], less the mean and divided by the deviation of each channel."""
        mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (images.float() / 255.0 - mean) / std

    def _parameter_type(self) -> torch.dtype:
        return next(p.dtype for p in self.backbone.parameters() if p.is_floating_point())


def new_resnet(settings: ResNet) -> nn.Module:
    """Return a transformers ResNetModel with random weights from torch's global generator."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=settings.embedding_size,
        hidden_sizes=list(settings.hidden_sizes),
        depths=list(settings.depths),
        layer_type=settings.layer_type,
        downsample_in_first_stage=settings.downsample_in_first_stage,
    )
    return ResNetModel(config)


def new_vit(settings: ViT) -> nn.Module:
    """Return a transformers ViTModel, without its pooler, with random weights from torch's global generator."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.mlp_size,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )
    return ViTModel(config, add_pooling_layer=False)
