"""Tensors with an optimizer's, as a source for checkpoints, without an engine."""

from collections.abc import Mapping

import torch
from torch import Tensor


class PlainTensors:
    """Named weights, each with one optimizer tensor, and one buffer; drawn from a seed."""

    def __init__(self, seed: int, *, shapes: Mapping[str, tuple[int, ...]] | None = None, keys: tuple = ("exp_avg",)):
        draw = torch.Generator().manual_seed(seed)
        self._shapes = dict(shapes or {"encoder.a": (3, 4), "encoder.b": (4,), "head": (2, 2)})
        self.tensors = {
            name: {key: torch.randn(shape, generator=draw) for key in ("weight", *keys)}
            for name, shape in self._shapes.items()
        }
        self.others = {"encoder.norm.running_mean": torch.randn(4, generator=draw)}
        self.step = seed
        self._keys = list(keys)

    def names(self) -> list[str]:
        return list(self._shapes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def optimizer_keys(self) -> list[str]:
        return self._keys

    def optimizer_step(self) -> int:
        return self.step

    def gather(self, name: str) -> dict[str, Tensor]:
        return self.tensors[name]

    def scatter(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.tensors[name] = dict(tensors)

    def prepare_optimizer(self, keys: list[str], step: int) -> None:
        self._keys, self.step = list(keys), step

    def buffers(self) -> dict[str, Tensor]:
        return self.others

    def load_buffers(self, tensors: dict[str, Tensor]) -> None:
        self.others = tensors

    def same_as(self, other: "PlainTensors") -> bool:
        """Tell whether every tensor and the step are bit for bit the same."""
        pairs = [(v, other.tensors[n][k]) for n, held in self.tensors.items() for k, v in held.items()]
        pairs += [(v, other.others[n]) for n, v in self.others.items()]
        return self.step == other.step and all(torch.equal(a, b) for a, b in pairs)
