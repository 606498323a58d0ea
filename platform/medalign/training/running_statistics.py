"""BatchNorm's running statistics, independent of the number of ranks: per micro-batch, combined in index order.

DeepSpeed averages no buffers. Here a forward leaves the statistics of its own micro-batch in the module (momentum 1);
at each optimizer step all ranks' statistics are gathered and folded, micro-batch by micro-batch in the order of their
global index, into one running copy:  running <- (1 - momentum) running + momentum batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """The one running copy of every BatchNorm's statistics in a module, in fp32 and the module's order."""

    def __init__(self, module: nn.Module) -> None:
        self._layers: list[tuple[str, Any]] = [
            (name, layer)
            for name, layer in module.named_modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        for _, layer in self._layers:  # CPU kernels want buffers of the weights' dtype; the running copy stays fp32
            if layer.weight is not None:
                layer.running_mean, layer.running_var = (
                    b.to(layer.weight.dtype) for b in (layer.running_mean, layer.running_var)
                )
        self._momenta = [0.1 if layer.momentum is None else layer.momentum for _, layer in self._layers]
        self._running = self._read()
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
        momentum = self._spread(torch.tensor(self._momenta))
        for values in table:
            self._running = (1 - momentum) * self._running + momentum * values
        self.write()

    def discard(self) -> None:
        """Forget a step that was not applied and put the running copy back into the layers."""
        self._seen.clear()
        self.write()

    def write(self) -> None:
        """Put the running copy into the layers: what evaluation and checkpoints see."""
        offset = 0
        for _, layer in self._layers:
            for buffer in (layer.running_mean, layer.running_var):
                buffer.copy_(self._running[offset : offset + buffer.numel()])
                offset += buffer.numel()

    def state(self) -> dict[str, Tensor]:
        """Return the running copy as named fp32 tensors, keyed like the module's own buffers."""
        tensors, offset = {}, 0
        for name, layer in self._layers:
            for part in ("running_mean", "running_var"):
                size = getattr(layer, part).numel()
                tensors[f"{name}.{part}"] = self._running[offset : offset + size].clone()
                offset += size
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set the running copy from `state()`'s tensors."""
        if self._layers:
            names = [f"{name}.{part}" for name, _ in self._layers for part in ("running_mean", "running_var")]
            self._running = torch.cat([tensors[name].flatten().float() for name in names]).to(self._running.device)
            self.write()

    def _read(self) -> Tensor:
        parts = [
            b.detach().flatten().float() for _, layer in self._layers for b in (layer.running_mean, layer.running_var)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _spread(self, per_layer: Tensor) -> Tensor:
        sizes = torch.tensor([2 * layer.running_mean.numel() for _, layer in self._layers])
        return per_layer.repeat_interleave(sizes).to(self._running.device)
