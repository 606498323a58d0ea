"""A rehearsal: one forward and backward pass of the real module on tensors without values, every byte counted.

The module and the images are on PyTorch's meta device: operations compute shapes and nothing else, so that a model of
seven billion parameters is rehearsed in seconds on a laptop. Token ids, masks and other small integers keep their
values, because the code branches on them. What is counted is what PyTorch's allocator would hold: each storage from the
operation that makes it until it is freed, by the same autograd graph, checkpointing and hooks as in training.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from medalign.plan.stand_ins import standing_in

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution.default, _aten.convolution_backward.default)
_INDEXED = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What one micro-batch needs on its device.

    Attributes:
        saved: bytes alive at the end of the forward pass: activations kept for the backward pass.
        peak: the most bytes alive at once, beside weights and finished gradients.
        flops: floating-point operations of forward, recomputation and backward; a multiplication and an addition are 2.
        forward_flops: of the forward pass alone.
    """

    saved: int
    peak: int
    flops: float
    forward_flops: float


class Accountant(TorchDispatchMode):
    """Counts the bytes of every storage on the meta device, and floating-point operations."""

    def __init__(self, module: nn.Module, *, reorders: bool = False) -> None:
        super().__init__()
        self.live, self.peak, self.flops = 0, 0, 0.0
        self._reorders = reorders
        self._known = {t.untyped_storage()._cdata: 0 for t in (*module.parameters(), *module.buffers())}

    def count(self, operations: float) -> None:
        """Take note of floating-point operations."""
        self.flops += operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation; where it asks for a value that is not there, give a plausible one."""
        kwargs = kwargs or {}
        if any(t.is_meta for t in _tensors((args, kwargs))):
            is_answered, answer = _answer(func, args, kwargs)
            if is_answered:
                return answer
            args, kwargs = tree_map(_without_value, (_by_place(func, args), kwargs))
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        for tensor in _tensors(out):
            self._see(tensor)
        if self._reorders and func in _CONVOLUTIONS:
            copies = sum(t.numel() * t.element_size() for t in _tensors((args, kwargs, out)))
            self.peak = max(self.peak, self.live + copies)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if not tensor.is_meta or key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


def rehearse(module: nn.Module, batch: Any, *, reorders: bool = False) -> Rehearsed:
    """Return what a micro-batch of a module on the meta device needs.

    Args:
        module: an objective's module, called as `module(batch) -> (loss, stats)`, in training mode.
        batch: its images are on the meta device.
        reorders: while a convolution runs there are copies of all that it reads and writes, as with oneDNN on CPUs,
            which lays tensors out anew.

    Raises:
        NotImplementedError, RuntimeError, ValueError, TypeError: the module does something that needs values.
    """
    accountant = Accountant(module, reorders=reorders)
    hooks = [
        p.register_post_accumulate_grad_hook(_drop_gradient) for p in module.parameters() if p.requires_grad
    ]  # finished gradients belong to the engine
    try:
        with standing_in(module, accountant.count), accountant:
            loss, _ = module(batch)
            saved, forward = accountant.live, accountant.flops
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    return Rehearsed(saved=saved, peak=accountant.peak, flops=accountant.flops, forward_flops=forward)


def without_values(batch: Any) -> Any:
    """Return a batch whose images are on the meta device; everything small keeps its values."""
    held = {f.name: getattr(batch, f.name) for f in fields(batch)}
    large = {name: value.to("meta") for name, value in held.items() if isinstance(value, Tensor) and "images" in name}
    large.pop("image_ids", None)
    return replace(batch, **{name: value for name, value in large.items() if value.ndim > 2})


def batch_bytes(batch: Any) -> int:
    """Return the bytes of a batch's tensors."""
    held = (getattr(batch, f.name) for f in fields(batch))
    return sum(t.numel() * t.element_size() for t in held if isinstance(t, Tensor))


def _answer(func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
    """Return what stands for a value that is asked for: zero, "equal", every place of a mask, ranks in order."""
    if func is _aten._local_scalar_dense.default:
        kind = args[0].dtype
        return True, (False if kind == torch.bool else 0.0 if kind.is_floating_point else 0)
    if func is _aten.equal.default:
        return True, True
    if func is _aten.nonzero.default:
        return True, torch.ones(args[0].shape, dtype=torch.bool).nonzero().to("meta")
    if func is _aten.copy_.default and not args[0].is_meta:
        return True, args[0].zero_()
    to = kwargs.get("device")
    if func is _aten._to_copy.default and to is not None and torch.device(to).type == "cpu":
        kind = kwargs.get("dtype") or args[0].dtype
        if kind.is_floating_point or kind == torch.bool or not args[0].ndim:
            return True, torch.zeros(args[0].shape, dtype=kind)
        return True, torch.arange(args[0].shape[-1], dtype=kind).expand(args[0].shape).clone()
    return False, None


def _by_place(func: Any, args: Any) -> Any:
    """Return an indexing operation's arguments with masks as places, whose number is then known."""
    if func not in _INDEXED:
        return args
    places: list[Tensor | None] = []
    for index in args[1]:
        if index is None or index.dtype != torch.bool:
            places.append(index)
            continue
        mask = torch.ones(index.shape, dtype=torch.bool) if index.is_meta else index
        places.extend(mask.nonzero().T)
    return (args[0], places, *args[2:])


def _without_value(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta and value.ndim else value


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
