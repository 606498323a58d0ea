"""A small run as training leaves it: a resolved recipe and a real checkpoint, without the training."""

from pathlib import Path

import torch
import yaml
from torch import Tensor

from medalign import checkpoint
from medalign.build import build_encoder, model_settings
from medalign_core.models.encoders import ImageEncoder

MODEL = {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


class EncoderWeights:
    """An encoder as a source of tensors for a checkpoint, without an optimizer."""

    rank, world = 0, 1

    def __init__(self, encoder: ImageEncoder) -> None:
        self.parameters = {f"encoder.{name}": value.detach() for name, value in encoder.named_parameters()}
        self.others = {f"encoder.{name}": value for name, value in encoder.named_buffers()}

    def names(self) -> list[str]:
        return list(self.parameters)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self.parameters.items()}

    def optimizer_keys(self) -> list[str]:
        return []

    def optimizer_step(self) -> int:
        return 0

    def planned_keys(self) -> list[str]:
        return []

    def gather(self, name: str, key: str = "weight", *, owner: int | None = None) -> Tensor:
        return self.parameters[name]

    def scatter(self, name: str, key: str, value: Tensor) -> None:
        self.parameters[name].copy_(value)

    def share(self, value: Tensor | None, shape: tuple[int, ...], *, owner: int) -> Tensor:
        assert value is not None
        return value

    def barrier(self) -> None:
        pass

    def any_rank(self, value: bool) -> bool:
        return value

    def prepare_optimizer(self, keys: list[str], step: int) -> None:
        assert not keys

    def buffers(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.others.items() if value.is_floating_point()}

    def load_buffers(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            self.others[name].copy_(value)


def write_run(
    at: Path, *, seed: int, corpus: str = "/corpora/stripes", allow_splits: tuple[str, ...] = ()
) -> ImageEncoder:
    """Write a run whose weights have moved away from its seed's, and return its encoder."""
    recipe = {
        "run": {"uri": str(at), "seed": seed},
        "data": {"corpus": corpus, "image_size": 32, "allow_splits": list(allow_splits)},
        "model": MODEL,
        "objective": {"type": "lvm_med", "graph_size": 16},
    }
    at.mkdir(parents=True)
    (at / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    encoder = build_encoder(model_settings(recipe), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*encoder.parameters(), *(b for b in encoder.buffers() if b.is_floating_point())):
            value.add_(0.05 * torch.rand(value.shape, generator=draw))
    state = checkpoint.TrainState(step=10, seed=seed, global_batch=32)
    checkpoint.save(str(at), state, EncoderWeights(encoder), recipe=recipe)
    return encoder
