"""Masks from boxes: SAM's prompt encoder and mask decoder (Kirillov et al. 2023) on the map of any image encoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PromptedDecoder(nn.Module):
    """SAM's decoder around transformers' own parts; the map of another encoder is brought to its width.

    A map of another width goes through two convolutions (1x1, 3x3) with layer norms, as SAM's own neck and LVM-Med's
    do. A box is in pixels of the image that was encoded, whatever its size and however many there are in a batch.

    Args:
        sam: a transformers SamModel; its image encoder is not used.
        channels: of the map.
    """

    def __init__(self, sam: nn.Module, *, channels: int) -> None:
        super().__init__()
        parts: Any = sam
        self.prompt_encoder, self.mask_decoder = parts.prompt_encoder, parts.mask_decoder
        width = int(parts.config.prompt_encoder_config.hidden_size)
        self.neck = nn.Identity() if channels == width else _neck(channels, width)
        self._side = int(parts.config.prompt_encoder_config.image_size)

    def forward(
        self, found: Float[Tensor, "B D R S"], boxes: Float[Tensor, "B K 4"], size: tuple[int, int]
    ) -> Float[Tensor, "B K H W"]:
        """Return the logits of the mask of every box, at the size of the image.

        Args:
            found: the encoder's map.
            boxes: (left, top, right, bottom) in pixels of the image.
            size: (height, width) of the image.
        """
        found = self.neck(found)
        height, width = size
        scale = boxes.new_tensor([self._side / width, self._side / height] * 2)
        sparse, _ = self.prompt_encoder(None, None, boxes * scale, None)
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        masks, _ = self.mask_decoder(
            image_embeddings=found,
            image_positional_embeddings=self._positions(found).expand(len(found), -1, -1, -1),
            sparse_prompt_embeddings=sparse.to(found.dtype),
            dense_prompt_embeddings=dense.to(found.dtype).expand_as(found),
            multimask_output=False,
        )
        return functional.interpolate(masks[:, :, 0].float(), size=size, mode="bilinear", align_corners=False)

    def _positions(self, found: Tensor) -> Tensor:
        """Return SAM's encoding of the middle of every cell, (1, D, R, S), for a map of any size."""
        rows, columns = found.shape[-2:]
        y = (torch.arange(rows, device=found.device) + 0.5) / rows
        x = (torch.arange(columns, device=found.device) + 0.5) / columns
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (R, S, 2)
        return self.prompt_encoder.shared_embedding(places[None])[0].permute(2, 0, 1)[None].to(found.dtype)


class _ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, found: Tensor) -> Tensor:
        return super().forward(found.movedim(1, -1)).movedim(-1, 1)


def _neck(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=1, bias=False),
        _ChannelNorm(width),
        nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
        _ChannelNorm(width),
    )


def new_sam(*, width: int, layers: int, heads: int, mlp_size: int, side: int) -> nn.Module:
    """Return a transformers SamModel with random weights from torch's global generator and a tiny image encoder."""
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": side,
        "patch_size": 16,
        "output_channels": width,
        "num_pos_feats": width // 2,
        "window_size": 0,
        "global_attn_indexes": [0],
    }
    prompts = {"hidden_size": width, "image_size": side, "patch_size": 16, "image_embedding_size": side // 16}
    decoder = {
        "hidden_size": width,
        "mlp_dim": mlp_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "iou_head_hidden_dim": width,
    }
    return SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
