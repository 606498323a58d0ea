"""Settings of image encoders: what to build, from scratch or around a given backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from medalign_core.models.encoders import ImageEncoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """A residual network (He et al. 2016); the defaults are ResNet-50.

    Attributes:
        source: a local directory or hub id of a pretrained ResNetModel; None builds from scratch. The platform opens
            it and hands the model to `build`; where it is given the sizes below are those of the source and unused.
        embedding_size: channels after the stem.
        hidden_sizes: channels of the stages; the last one is the feature size.
        depths: blocks per stage.
        layer_type: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1) blocks.
        downsample_in_first_stage: halve the map in the first stage too (total stride 2 more).
        mean: subtracted from each of R, G, B in [0, 1].
        std: divided by, per channel.
    """

    source: str | None = None
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    downsample_in_first_stage: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_positive(self, "embedding_size")
        if not self.depths or len(self.depths) != len(self.hidden_sizes):
            raise ValueError(
                f"depths and hidden_sizes must have one entry per stage, got {self.depths} and {self.hidden_sizes}."
            )
        if min(self.depths) < 1 or min(self.hidden_sizes) < 1:
            raise ValueError(f"depths and hidden_sizes must be >= 1, got {self.depths} and {self.hidden_sizes}.")
        if self.layer_type not in ("basic", "bottleneck"):
            raise ValueError(f"layer_type must be 'basic' or 'bottleneck', got {self.layer_type!r}.")
        _check_normalisation(self.mean, self.std)

    def build(self, backbone: torch.nn.Module | None = None) -> ImageEncoder:
        """Return an encoder around `backbone` (a transformers ResNetModel), or around a new one with random weights."""
        from medalign_core.models.encoders import ImageEncoder, new_resnet

        return ImageEncoder(new_resnet(self) if backbone is None else backbone, mean=self.mean, std=self.std)


@dataclass(frozen=True, kw_only=True)
class ViT:
    """A vision transformer (Dosovitskiy et al. 2021); the defaults are ViT-B/16 at 224 pixels.

    Attributes:
        source: a local directory or hub id of a pretrained ViTModel; None builds from scratch. The platform opens it
            and hands the model to `build`; where it is given the sizes below are those of the source and unused.
        image_size: height and width the positions are learnt for; other sizes interpolate them.
        patch_size: height and width of a patch.
        hidden_size: width of the tokens, the feature size.
        layers: transformer blocks.
        heads: attention heads; they divide hidden_size.
        mlp_size: width of the blocks' perceptrons.
        dropout: probability in the blocks, hidden and attention alike, in [0, 1). Not keyed by the draw key, so
            anything but 0 gives up exact reproduction across numbers of workers.
        mean: subtracted from each of R, G, B in [0, 1].
        std: divided by, per channel.
    """

    source: str | None = None
    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    mlp_size: int = 3072
    dropout: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_positive(self, "image_size", "patch_size", "hidden_size", "layers", "heads", "mlp_size")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide hidden_size, got {self.heads} and {self.hidden_size}.")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size must divide image_size, got {self.patch_size} and {self.image_size}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        _check_normalisation(self.mean, self.std)

    def build(self, backbone: torch.nn.Module | None = None) -> ImageEncoder:
        """Return an encoder around `backbone` (a transformers ViTModel), or around a new one with random weights."""
        from medalign_core.models.encoders import ImageEncoder, new_vit

        return ImageEncoder(new_vit(self) if backbone is None else backbone, mean=self.mean, std=self.std)


@dataclass(frozen=True, kw_only=True)
class SamViT:
    """The image encoder of SAM (Kirillov et al. 2023), a ViT with windowed attention; the defaults are ViT-B/16.

    Attributes:
        source: a local directory or hub id of a pretrained SamVisionModel, or of a whole SamModel; None builds from
            scratch. Where it is given the sizes below are those of the source and unused.
        image_size: height and width the absolute positions are learnt for; SAM's are 1024.
        patch_size: height and width of a patch.
        hidden_size: width of the tokens.
        layers: transformer blocks.
        heads: attention heads; they divide hidden_size.
        mlp_size: width of the blocks' perceptrons.
        neck_size: channels of the map after the neck's two convolutions.
        window_size: height and width of the windows that most blocks attend in, in patches.
        global_layers: the blocks that attend over the whole map.
        features: the map "blocks" leave, of `hidden_size` channels (LVM-Med projects 768 for a ViT-B), or the one after
            the "neck".
        positions: absolute ones are interpolated to the map's size ("interpolate"), or left out ("drop") as LVM-Med's
            authors do; relative ones are always used.
        mean: subtracted from each of R, G, B in [0, 1].
        std: divided by, per channel.
    """

    source: str | None = None
    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    mlp_size: int = 3072
    neck_size: int = 256
    window_size: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    features: Literal["blocks", "neck"] = "blocks"
    positions: Literal["interpolate", "drop"] = "interpolate"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_positive(self, "image_size", "patch_size", "hidden_size", "layers", "heads", "mlp_size")
        _check_positive(self, "neck_size", "window_size")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide hidden_size, got {self.heads} and {self.hidden_size}.")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size must divide image_size, got {self.patch_size} and {self.image_size}.")
        if any(not 0 <= layer < self.layers for layer in self.global_layers):
            raise ValueError(f"global_layers must lie in [0, {self.layers - 1}], got {list(self.global_layers)}.")
        if self.features not in ("blocks", "neck") or self.positions not in ("interpolate", "drop"):
            raise ValueError(
                "features must be 'blocks' or 'neck' and positions 'interpolate' or 'drop', "
                f"got {self.features!r} and {self.positions!r}."
            )
        _check_normalisation(self.mean, self.std)

    def build(self, backbone: torch.nn.Module | None = None) -> ImageEncoder:
        """Return an encoder around `backbone` (a SamVisionModel), or around a new one with random weights."""
        from medalign_core.models.encoders import ImageEncoder
        from medalign_core.models.sam import SamReading, new_sam_vit

        reading = SamReading(features=self.features, positions=self.positions)
        opened = new_sam_vit(self) if backbone is None else backbone
        return ImageEncoder(opened, mean=self.mean, std=self.std, sam=reading)


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be >= 1, got {getattr(settings, name)}.")


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must have one value for each of R, G, B, std > 0, got {mean} and {std}.")
