"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation, with ReLU6), its batch norms folded away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medalign_core.models.dual.folding import FoldedPair, fold_batch_norms

WIDTH = 1280  # channels of the last feature map
STRIDE = 32  # pixels per cell of it
NORM_EPSILON = 1e-3
STEM = 32
# (repeats, kernel, stride of the first block, expansion, channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """The network up to its last feature map.

    A frozen batch norm is an affine map per channel; folded into the convolution before it, the network has no running
    statistics that use could change, no training mode, and is faster.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, STEM, kernel=3, stride=2)
        blocks, channels = [], STEM
        for repeats, kernel, first_stride, expansion, out in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(_Block(channels, out, kernel=kernel, stride=stride, expansion=expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = _SameConv(channels, WIDTH, kernel=1)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1280 R S"]:
        """Return the last feature map, in [0, 6]; R = ceil(H / 32), S = ceil(W / 32).

        Args:
            pixels: (value - 127) / 128 for values in 0..255.
        """
        x = functional.relu6(self.stem(pixels))
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self.head(x))


class PublishedWeights(NamedTuple):
    """What a published checkpoint holds.

    Attributes:
        network: up to the last feature map.
        classifier: (1000, 1280) the rows of the ImageNet classifier.
        head_mean: (1280,) beta of the last batch norm: each channel's mean before the last ReLU6, over the images and
            cells of the training set.
        head_std: (1280,) |gamma| of it: that channel's standard deviation.
    """

    network: EfficientNetLite0
    classifier: Float[Tensor, "C 1280"]
    head_mean: Float[Tensor, " 1280"]
    head_std: Float[Tensor, " 1280"]


def from_published(state: Mapping[str, Tensor]) -> PublishedWeights:
    """Return the network of a state dict with the names of the PyTorch ports (`_conv_stem`, `_blocks.0._bn1`, ...).

    Raises:
        ValueError: names or shapes are not those of EfficientNet-Lite0.
    """
    try:
        folded = fold_batch_norms(state, _names(), epsilon=NORM_EPSILON)
        classifier, mean, std = state["_fc.weight"], state["_bn1.bias"], state["_bn1.weight"].abs()
        network = EfficientNetLite0()
        network.load_state_dict(folded)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"not the weights of EfficientNet-Lite0: {' '.join(str(error).split())[:200]}") from error
    if classifier.ndim != 2 or classifier.shape[1] != WIDTH:
        raise ValueError(f"the classifier must have {WIDTH} columns, got {tuple(classifier.shape)}.")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on processors
    return PublishedWeights(network, classifier.clone(), mean.clone(), std.clone())


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads for "same": the odd pixel goes to the right and to the bottom."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size[0] == 1:
            return super().forward(x)
        right, bottom = self._missing(x.shape[-1]), self._missing(x.shape[-2])
        x = functional.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return super().forward(x)

    def _missing(self, size: int) -> int:
        steps = -(-size // self.stride[0]) - 1
        return max(steps * self.stride[0] + self.kernel_size[0] - size, 0)


class _Block(nn.Module):
    """Expand, filter each channel, project; the input is added where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _SameConv(inputs, wide, kernel=1) if expansion > 1 else None
        self.depthwise = _SameConv(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = _SameConv(wide, outputs, kernel=1)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else functional.relu6(self.expand(x))
        inner = self.project(functional.relu6(self.depthwise(inner)))
        return x + inner if self.adds_input else inner


def _names() -> Iterator[FoldedPair]:
    yield FoldedPair("stem", "_conv_stem", "_bn0")
    expansions = [expansion for repeats, _, _, expansion, _ in STAGES for _ in range(repeats)]
    for index, expansion in enumerate(expansions):
        if expansion > 1:
            yield FoldedPair(f"blocks.{index}.expand", f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0")
        yield FoldedPair(f"blocks.{index}.depthwise", f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1")
        yield FoldedPair(f"blocks.{index}.project", f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2")
    yield FoldedPair("head", "_conv_head", "_bn1")
