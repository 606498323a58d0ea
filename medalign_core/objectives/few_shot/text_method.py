"""A few-shot method whose prompts run through the text tower: between eval() and train() they are encoded once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch

from medalign_core.objectives.few_shot.contract import FewShotMethod

Encoded = TypeVar("Encoded")


class TextMethod(FewShotMethod, Generic[Encoded]):
    """Keeps the encoded prompts while nothing is learnt, since encoding them is most of what a batch costs."""

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[Any, Encoded] | None = None

    @abstractmethod
    def encode_prompts(self, draws: torch.Generator | None = None) -> Encoded:
        """Return the prompts' features; `draws` are what dropout is drawn by, None is no dropout."""

    def prompts_now(self) -> Encoded:
        """Return the prompts' features without dropout, kept in eval mode where no gradient is asked for."""
        if self.training or torch.is_grad_enabled():
            return self.encode_prompts()
        learnt = [p for p in self.parameters() if p.requires_grad]
        state = [(p.data_ptr(), p._version, p.device) for p in learnt]
        if self._held is None or self._held[0] != state:
            self._held = (state, self.encode_prompts())
        return self._held[1]

    def train(self, mode: bool = True) -> TextMethod[Encoded]:
        """Set the mode and forget what was kept."""
        self._held = None
        super().train(mode)
        return self
