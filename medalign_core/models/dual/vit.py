"""A vision transformer with the names and the arithmetic of timm's `vit_*_patch*`: its weights load as saved."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64  # of vit_tiny, _small, _base and _large alike
NORM_EPSILON = 1e-6


class TimmViT(nn.Module):
    """Patches and a class token through pre-norm blocks and a last layer norm.

    Args:
        width: of the tokens, a multiple of 64.
        depth: blocks.
        mlp_width: of the blocks' perceptrons.
        patch_size: height and width of a patch.
        grid: patches per side; positions are learnt, so other sizes are refused by shape.
    """

    def __init__(self, *, width: int, depth: int, mlp_width: int, patch_size: int, grid: int) -> None:
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"width must be a multiple of {HEAD_WIDTH}, got {width}.")
        self.width, self.patch_size, self.grid = width, patch_size, grid
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch_size, stride=patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.blocks = nn.ModuleList([_Block(width, mlp_width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)

    @classmethod
    def shaped_like(cls, state: dict[str, Tensor]) -> TimmViT:
        """Return a network of the sizes that a state dict shows; KeyError where it lacks what is looked at."""
        width, _, patch_size, _ = state["patch_embed.proj.weight"].shape
        return cls(
            width=width,
            depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
            mlp_width=len(state["blocks.0.mlp.fc1.weight"]),
            patch_size=patch_size,
            grid=round((state["pos_embed"].shape[1] - 1) ** 0.5),
        )

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B S V"]:
        """Return the class token and the patch tokens, row by row from the top left: S = 1 + grid^2, V = width."""
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed


class _Block(nn.Module):
    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=NORM_EPSILON) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp_width), "fc2": nn.Linear(mlp_width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn["proj"](self._attend(self.norm1(x)))
        x = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return x

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](x).unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
