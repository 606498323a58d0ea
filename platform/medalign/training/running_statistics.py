"""BatchNorm's running statistics, independent of the number of ranks: per micro-batch, combined in index order.

DeepSpeed averages no buffers. Here a forward leaves the statistics of its own micro-batch in the module (momentum 1);
at each optimizer step all ranks' statistics are gathered and folded, micro-batch by micro-batch in the order of their
global index, into one running copy:  running <- (1 - momentum) running + momentum batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def _is_frozen(layer: _BatchNorm) -> bool:
    """Tell whether a layer stays as it is: its statistics must not change either, not even by rounding."""
    return not layer.training and layer.weight is not None and not layer.weight.requires_grad


class RunningStatistics:
    """The one running copy of every BatchNorm's statistics in a module, in fp32 and the module's order."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = [
            (name, layer)
            for name, layer in module.named_modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None and not _is_frozen(layer)
        ]
        for _, layer in self._layers:  # CPU kernels want buffers of the weights' dtype; the running copy stays fp32
            if layer.weight is not None:
                for part in ("running_mean", "running_var"):
                    setattr(layer, part, getattr(layer, part).to(layer.weight.dtype))
        momenta = [0.1 if layer.momentum is None else layer.momentum for _, layer in self._layers]
        sizes = [2 * layer.num_features for _, layer in self._layers]
        self._running = self._read()
        self._momentum = torch.tensor(momenta).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        self._momentum = self._momentum.to(self._running)
        self._seen: list[tuple[int, Tensor]] = []
        for _, layer in self._layers:
            layer.momentum = 1.0

    def record(self, index: int) -> None:
        """Keep what the forward of micro-batch `index` (its place in the step) left in the layers."""
        if self._layers:
            self._seen.append((index, self._read()))

    def combine(self, micro_batches: int) -> None:
        """Fold the recorded statistics of all ranks, in index order. Collective; then starts a new step."""
        if not self._layers:
            return
        table = torch.zeros(micro_batches, self._running.numel(), device=self._running.device)
        for index, values in self._seen:
            table[index] = values
        self._seen.clear()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(table)
        for values in table:
            self._running = (1 - self._momentum) * self._running + self._momentum * values
        self.write()

    def discard(self) -> None:
        """Forget a step that was not applied and put the running copy back into the layers."""
        self._seen.clear()
        self.write()

    def write(self) -> None:
        """Put the running copy into the layers: what evaluation and checkpoints see."""
        for (_, buffer), (_, values) in zip(self._buffers(), self._parts(), strict=True):
            buffer.copy_(values)

    def state(self) -> dict[str, Tensor]:
        """Return the running copy as named fp32 tensors, keyed like the module's own buffers."""
        return {name: values.clone() for name, values in self._parts()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the running copy from `state()`'s tensors."""
        if self._layers:
            values = [tensors[name].flatten().float() for name, _ in self._buffers()]
            self._running = torch.cat(values).to(self._running.device)
            self.write()

    def _read(self) -> Tensor:
        values = [buffer.detach().flatten().float() for _, buffer in self._buffers()]
        return torch.cat(values) if values else torch.zeros(0)

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the layers' own buffers, by name."""
        for name, layer in self._layers:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            yield f"{name}.running_mean", layer.running_mean
            yield f"{name}.running_var", layer.running_var

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the running copy's parts, by the buffers' names."""
        offset = 0
        for name, buffer in self._buffers():
            yield name, self._running[offset : offset + buffer.numel()]
            offset += buffer.numel()
