"""The rehearsals of a recipe: its micro-batch, half of it, the mean one, and with checkpointing switched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medalign.plan.micro_batches import Lengths, micro_batch
from medalign.plan.rehearsal import Rehearsed, batch_bytes, rehearse
from medalign.plan.run_plan import RunPlan
from medalign.recipe import Recipe
from medalign_core.models.multimodal.settings import Llava

if TYPE_CHECKING:
    from torch import nn

TOWER = "vision_tower."
REFUSED = (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError)


@dataclass(frozen=True, kw_only=True)
class Rehearsals:
    """A recipe's module with what it is rehearsed on.

    Attributes:
        recipe: resolved.
        module: on the meta device, of the types that the engine gives its weights.
        lengths: of words, None without.
        plan: of the corpus, None where the rows are assumed.
        reorders: count what convolutions copy on CPUs; see `rehearse`.
    """

    recipe: Recipe
    module: nn.Module
    lengths: Lengths | None
    plan: RunPlan | None
    reorders: bool = False

    def batch(self, size: int, *, mean: bool = False) -> Any:
        """Return a micro-batch of `size` rows, of the longest words that were seen or of the mean ones."""
        lengths = self.lengths
        if mean and lengths is not None:
            lengths = Lengths.assumed(lengths.mean)
        return micro_batch(self.recipe, size, module=self.module, lengths=lengths, plan=self.plan)

    def batch_bytes(self, size: int) -> int:
        """Return the bytes of a micro-batch on the device."""
        return batch_bytes(self.batch(size))

    def passes(self) -> tuple[list[tuple[int, Rehearsed]], str]:
        """Return (micro-batch, what it needs) of the recipe's size and a smaller one; and why there is none."""
        found: list[tuple[int, Rehearsed]] = []
        for size in self._sizes():
            try:
                found.append((size, rehearse(self.module, self.batch(size), reorders=self.reorders)))
            except REFUSED as error:
                cause = " ".join(str(error).split())[:160]
                return [], (
                    f"a pass of {type(self.recipe.objective).__name__} could not be rehearsed without values"
                    f" ({type(error).__name__}: {cause}): its activations and operations are not known."
                )
        return found, ""

    def mean_flops(self, passes: list[tuple[int, Rehearsed]]) -> float | None:
        """Return the operations of a sample of mean length."""
        if not passes:
            return None
        size, worst = passes[-1]
        if self.lengths is None or dict(self.lengths.mean) == dict(self.lengths.worst):
            return worst.flops / size
        return rehearse(self.module, self.batch(size, mean=True)).flops / size

    def saved_otherwise(self) -> int | None:
        """Return the saved activations with activation checkpointing switched the other way; None without a switch."""
        if not isinstance(self.recipe.model, Llava):
            return None
        decoder: Any = self.module.model.decoder  # type: ignore[union-attr]
        checkpoints = self.recipe.model.activation_checkpointing
        on: Callable[[], Any] = lambda: decoder.activation_checkpointing_enable({"use_reentrant": False})  # noqa: E731
        switch = (decoder.activation_checkpointing_disable, on)
        switch[not checkpoints]()
        try:
            return rehearse(self.module, self.batch(self.recipe.train.micro_batch)).saved
        finally:
            switch[checkpoints]()

    def language_weights(self) -> int:
        """Return the weights that every token passes: all but the vision tower's; 0 without words."""
        if not isinstance(self.recipe.model, Llava):
            return 0
        return sum(p.numel() for name, p in self.module.named_parameters() if TOWER not in name)

    def logits(self) -> int | None:
        """Return the bytes of a chunk's logits, their fp32 copy and its gradient; None without words."""
        if self.lengths is None or not isinstance(self.recipe.model, Llava):
            return None
        head: Any = self.module.model.network.lm_head.weight  # type: ignore[union-attr]
        targets = self.recipe.train.micro_batch * self.lengths.worst.get("learnt", self.lengths.worst["conversation"])
        return math.ceil(targets / self.recipe.model.loss_chunks) * head.shape[0] * (head.element_size() + 8)

    def _sizes(self) -> list[int]:
        own = self.recipe.train.micro_batch
        smaller = (size for size in range(own // 2, 0, -1) if accepts(self.recipe, size))
        return [*([size] if (size := next(smaller, 0)) else []), own]


def accepts(recipe: Recipe, size: int) -> bool:
    """Tell whether a recipe's objective takes a micro-batch of a size."""
    validate = getattr(recipe.objective, "validate", None)
    try:
        if validate:
            validate(size)
    except ValueError:
        return False
    return True


def as_trained(module: nn.Module, recipe: Recipe) -> nn.Module:
    """Return the module with weights of the types that the engine gives them: bf16 training casts all of them."""
    import torch

    return module.to(torch.bfloat16) if recipe.train.precision == "bf16" else module
