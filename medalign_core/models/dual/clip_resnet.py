"""CLIP with its ResNet, as open_clip saves it: attention pooling with every position as a query gives local tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.clip import ClipTextTower
from medalign_core.models.dual.encoder import ImageTower, VisualTokens
from medalign_core.models.dual.folding import FoldedPair, fold_batch_norms
from medalign_core.models.dual.pixels import Normalisation

HEAD_WIDTH = 64
NORM_EPSILON = 1e-5
EXPANSION = 4
STRIDE = 32  # pixels per cell of the last feature map


class Towers(NamedTuple):
    """What a checkpoint holds; `scale` is the exponential of its logit_scale."""

    image: ClipResNetTower
    text: ClipTextTower
    scale: float


class ClipResNetTower(ImageTower):
    """A ResNet with average pools for strides (Radford et al. 2021), its batch norms folded, and attention pooling.

    The pooled feature is CLIP's: the answer to the query of the map's mean. The local tokens are the answers to the
    queries of the cells, which CLIP computes and drops: 49 at 224 pixels.

    Args:
        depths: blocks of the four stages.
        width: channels after the stem, a multiple of 2; the last map has 32 times as many.
        image_size: a multiple of 32.
        size: D, of the joint space.
        pixels: the normalisation it was trained with.
    """

    def __init__(
        self, depths: tuple[int, ...], *, width: int, image_size: int, size: int, pixels: Normalisation
    ) -> None:
        super().__init__()
        self.image_size, self.token_count, self.pixels = image_size, (image_size // STRIDE) ** 2, pixels
        half = width // 2
        self.stem = nn.ModuleList(
            [
                nn.Conv2d(3, half, 3, stride=2, padding=1),
                nn.Conv2d(half, half, 3, padding=1),
                nn.Conv2d(half, width, 3, padding=1),
            ]
        )
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            for index in range(depth):
                blocks.append(_Bottleneck(channels, width * 2**stage, stride=2 if stage and not index else 1))
                channels = width * 2**stage * EXPANSION
        self.blocks = nn.ModuleList(blocks)
        self.pool = _AttentionPool(self.token_count, channels, size)

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> VisualTokens:
        """Return the cells' tokens, row by row from the top left, and the pooled feature."""
        x = self.pixels(images, self.image_size, self.pool.positions.dtype)
        for convolution in self.stem:
            x = functional.relu(convolution(x))
        x = functional.avg_pool2d(x, 2)
        for block in self.blocks:
            x = block(x)
        features = self.pool(x)
        return VisualTokens(features[:, 1:], features[:, 0])


def from_open_clip(config: Mapping[str, Any], state: Mapping[str, Tensor], *, pixels: Normalisation) -> Towers:
    """Return the towers of an open_clip checkpoint with a ResNet.

    Args:
        config: what `open_clip_config.json` holds.
        state: the state dict: `visual.*`, `transformer.resblocks.*`, `token_embedding.weight`, `text_projection`, ...
        pixels: the normalisation it was trained with.

    Raises:
        ValueError: another architecture, or weights that do not fit it.
    """
    model = config.get("model_cfg", {})
    depths = model.get("vision_cfg", {}).get("layers")
    if not isinstance(depths, list | tuple):
        raise ValueError(f"the image tower must be CLIP's ResNet (a list of layers), got layers = {depths!r}.")
    try:
        image = _image_tower(tuple(depths), state, pixels)
        text = _text_tower(state, activation="quick_gelu" if model.get("quick_gelu") else "gelu")
        return Towers(image, text, math.exp(float(state["logit_scale"])))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the weights are not those of a CLIP: {' '.join(str(error).split())[:200]}") from error


class _Bottleneck(nn.Module):
    """Three convolutions of stride 1 beside a shortcut; where the map shrinks, an average pool does it on both ways."""

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.stride = stride
        self.reduce, self.filter = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.expand = nn.Conv2d(width, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.filter(functional.relu(self.reduce(x))))
        if self.stride > 1:
            inner, x = (functional.avg_pool2d(values, self.stride) for values in (inner, x))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return functional.relu(self.expand(inner) + shortcut)


class _AttentionPool(nn.Module):
    """Self-attention over the map's mean and its cells, every one of them a query."""

    def __init__(self, cells: int, width: int, size: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1 + cells, width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, size)

    def forward(self, x: Float[Tensor, "B V R S"]) -> Float[Tensor, "B Q D"]:
        cells = x.flatten(2).transpose(1, 2)
        tokens = torch.cat((cells.mean(dim=1, keepdim=True), cells), dim=1) + self.positions  # (B, 1 + R S, V)
        query, key, value = (
            layer(tokens).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.project(attended.transpose(1, 2).flatten(2))
        return projected


def _image_tower(depths: tuple[int, ...], state: Mapping[str, Tensor], pixels: Normalisation) -> ClipResNetTower:
    positions = state["visual.attnpool.positional_embedding"]
    tower = ClipResNetTower(
        depths,
        width=len(state["visual.conv3.weight"]),
        image_size=math.isqrt(len(positions) - 1) * STRIDE,
        size=len(state["visual.attnpool.c_proj.weight"]),
        pixels=pixels,
    )
    weights = fold_batch_norms(state, _pairs(depths, state), epsilon=NORM_EPSILON)
    weights["pool.positions"] = positions
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "project": "c_proj"}
    for (ours, theirs), kind in ((pair, kind) for pair in parts.items() for kind in ("weight", "bias")):
        weights[f"pool.{ours}.{kind}"] = state[f"visual.attnpool.{theirs}.{kind}"]
    tower.load_state_dict(weights)
    return tower


def _pairs(depths: tuple[int, ...], state: Mapping[str, Tensor]) -> Iterator[FoldedPair]:
    for index in range(3):
        yield FoldedPair(f"stem.{index}", f"visual.conv{index + 1}", f"visual.bn{index + 1}")
    block = 0
    for stage, depth in enumerate(depths):
        for index in range(depth):
            theirs = f"visual.layer{stage + 1}.{index}"
            for number, ours in enumerate(("reduce", "filter", "expand"), start=1):
                yield FoldedPair(f"blocks.{block}.{ours}", f"{theirs}.conv{number}", f"{theirs}.bn{number}")
            if f"{theirs}.downsample.0.weight" in state:
                yield FoldedPair(f"blocks.{block}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
            block += 1


def _text_tower(state: Mapping[str, Tensor], *, activation: str) -> ClipTextTower:
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, width = state["token_embedding.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.resblocks."))
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
        max_position_embeddings=len(state["positional_embedding"]),
        hidden_act=activation,
        pad_token_id=0,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,  # as in CLIP's own vocabulary; the defaults lie outside a smaller one
    )
    model = CLIPTextModel(config)
    model.load_state_dict(_text_weights(state, layers))
    projection = nn.Linear(width, state["text_projection"].shape[1], bias=False)
    with torch.no_grad():
        projection.weight.copy_(state["text_projection"].T)
    return ClipTextTower(model, projection)


def _text_weights(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return the text half's weights under the names of transformers."""
    weights = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    parts["self_attn.out_proj"] = "attn.out_proj"
    for kind in ("weight", "bias"):
        weights[f"final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for layer in range(layers):
            ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            weights |= {f"{ours}.{a}.{kind}": state[f"{theirs}.{b}.{kind}"] for a, b in parts.items()}
            joined = state[f"{theirs}.attn.in_proj_{kind}"].chunk(3)
            weights |= {f"{ours}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", joined, strict=True)}
    return weights
