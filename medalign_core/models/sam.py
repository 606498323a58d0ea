"""SAM's image encoder read as a backbone: its feature map at any image size, before or after its neck."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from medalign_core.models.settings import SamViT

KIND = "sam_vision_model"  # transformers' name of SamVisionModel


class SamReading(NamedTuple):
    """What of a SamVisionModel is used; see SamViT."""

    features: Literal["blocks", "neck"] = "blocks"
    positions: Literal["interpolate", "drop"] = "interpolate"


def sam_map(backbone: nn.Module, pixels: Float[Tensor, "B 3 H W"], reading: SamReading) -> Float[Tensor, "B D R S"]:
    """Return the feature map of a SamVisionModel, R = H / patch, S = W / patch.

    transformers' own forward takes one size alone. Here absolute positions are interpolated bicubically to the map, or
    left out; relative ones are interpolated by the attention itself. At the model's own size, with the neck, the map is
    that of its own forward.

    Raises:
        ValueError: pixels that are not whole patches.
    """
    model: Any = backbone.vision_encoder  # type: ignore[union-attr]
    patch = model.config.patch_size
    if pixels.shape[-2] % patch or pixels.shape[-1] % patch:
        raise ValueError(f"images must be whole patches of {patch} pixels, got {tuple(pixels.shape[-2:])}.")
    tokens = model.patch_embed.projection(pixels).permute(0, 2, 3, 1)  # (B, R, S, D)
    if model.pos_embed is not None and reading.positions == "interpolate":
        tokens = tokens + _positions(model.pos_embed, rows=tokens.shape[1], columns=tokens.shape[2])
    for layer in model.layers:
        tokens = layer(tokens)
    return model.neck(tokens) if reading.features == "neck" else tokens.permute(0, 3, 1, 2)


def new_sam_vit(settings: SamViT) -> nn.Module:
    """Return a transformers SamVisionModel with random weights from torch's global generator."""
    from transformers import SamVisionConfig, SamVisionModel

    config = SamVisionConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        mlp_dim=settings.mlp_size,
        output_channels=settings.neck_size,
        window_size=settings.window_size,
        global_attn_indexes=list(settings.global_layers),
    )
    return SamVisionModel(config)


def _positions(table: Float[Tensor, "1 R0 S0 D"], *, rows: int, columns: int) -> Float[Tensor, "1 R S D"]:
    if table.shape[1:3] == (rows, columns):
        return table
    resized = functional.interpolate(
        table.permute(0, 3, 1, 2).float(), size=(rows, columns), mode="bicubic", align_corners=False, antialias=True
    )
    return resized.permute(0, 2, 3, 1).to(table.dtype)
