"""What stands in for the parts of a step that tensors without values cannot run: attention kernels and the solver.

Attention is replaced by what a fused kernel keeps for its backward pass (query, key, value, output and one number a
query); the discrete solver, which works in NumPy on the host, by a loss that reaches the same tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medalign_core.solvers.graph_matching import MatchingResult
from medalign_core.solvers.implicit import MatchingGradient, MatchingLoss

NAME = "medalign_rehearsed"
COUNTED = ("sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "medalign_varlen")


class FusedAttention(torch.autograd.Function):
    """The memory of a fused attention kernel, without its values; `count` is told its floating-point operations."""

    count: Callable[[float], None] = staticmethod(lambda operations: None)

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pairs: float) -> Tensor:
        """Return an (R, P, heads, C) output. `pairs` is how many (query, key) pairs a head looks at, all rows."""
        rows, heads, length, channels = query.shape
        out = query.new_empty(rows, length, heads, channels)
        ctx.save_for_backward(query, key, value, out, query.new_empty(rows, heads, length, dtype=torch.float32))
        ctx.operations = 4.0 * pairs * heads * channels  # two products
        FusedAttention.count(ctx.operations)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of the right shapes. Five products, as FlashAttention has them."""
        query, key, value, _, _ = ctx.saved_tensors
        FusedAttention.count(2.5 * ctx.operations)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Stand for transformers' attention: causal within each packed text, or full in a vision tower."""
    borders = options.get("cu_seq_lens_q")
    rows, length = query.shape[0], query.shape[2]
    causal = bool(getattr(module, "is_causal", False))
    lengths = [length] * rows if borders is None else borders.diff().tolist()
    pairs = sum(n * (n + 1) / 2 if causal else n * n for n in lengths)
    return FusedAttention.apply(query, key, value, float(pairs)), None


def match(
    self: MatchingGradient, affinities: Any, solver: Any, perturbations: Any = None, *, always_solve: bool = False
) -> MatchingLoss:
    """Stand for MatchingGradient: identity matchings, and a loss that reaches affinities and nodes."""
    graphs, nodes = affinities.vertex.shape[:2]
    found = np.tile(np.arange(nodes), (graphs, 1))
    nothing = np.zeros(graphs)
    parts = (affinities.vertex, affinities.nodes_s, affinities.nodes_t)
    loss = torch.stack([part.flatten(1).sum(dim=1) for part in parts]).sum(dim=0)
    solution = MatchingResult(
        matching=found, objective=nothing, status=nothing.astype(int), iterations=nothing.astype(int)
    )
    return MatchingLoss(loss=loss, solution=solution, target_solved=np.zeros(graphs, dtype=bool))


@contextlib.contextmanager
def standing_in(module: torch.nn.Module, count: Callable[[float], None]) -> Iterator[None]:
    """Put the stand-ins in place for as long as the block runs; `count` is told of attention's operations."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda **options: None)
    configs = {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}.values()
    own = [(config, config._attn_implementation) for config in configs if hasattr(config, "_attn_implementation")]
    autocast, solve = torch.autocast, MatchingGradient.__call__

    def no_autocast(device_type: str, *arguments: Any, **options: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else autocast(device_type, *arguments, **options)

    try:
        for config, implementation in own:
            if implementation in COUNTED:
                config._attn_implementation = NAME
        torch.autocast = no_autocast  # type: ignore[assignment,misc]
        MatchingGradient.__call__ = match  # type: ignore[method-assign]
        FusedAttention.count = staticmethod(count)
        yield
    finally:
        torch.autocast, MatchingGradient.__call__ = autocast, solve  # type: ignore[misc,method-assign]
        FusedAttention.count = staticmethod(lambda operations: None)
        for config, implementation in own:
            config._attn_implementation = implementation
