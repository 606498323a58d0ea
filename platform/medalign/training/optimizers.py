"""Optimizers: their settings, and how a module's parameters are grouped for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient.

    Attributes:
        learning_rate: the base rate that the schedule scales.
        betas: decay of the first and second moments, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: of matrices and filters only; biases and norms have none.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def build(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's trained parameters."""
        import torch

        groups = _groups(module, self.weight_decay)
        return torch.optim.Adam(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); keys as of Adam."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01

    def build(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's trained parameters."""
        import torch

        groups = _groups(module, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Attributes:
        learning_rate: the base rate that the schedule scales.
        momentum: in [0, 1).
        weight_decay: of matrices and filters only; biases and norms have none.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def build(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's trained parameters."""
        import torch

        return torch.optim.SGD(_groups(module, self.weight_decay), lr=self.learning_rate, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class LARS:
    """Layer-wise adaptive rates (You et al. 2017), for large batches. ZeRO cuts layers apart: zero_stage 0 alone.

    Attributes:
        learning_rate: the base rate that the schedule scales.
        momentum: in [0, 1).
        weight_decay: of matrices and filters only; biases and norms have none, and their steps are not adapted.
        trust: the length of a step at rate 1, relative to that of the layer's weights; > 0.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 0.001

    def __post_init__(self) -> None:
        _check(self)
        if not 0 < self.trust < float("inf"):
            raise ValueError(f"trust must be > 0 and finite, got {self.trust}.")

    def build(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's trained parameters."""
        from medalign.training.lars import LayerwiseAdaptiveRate

        groups = [{**group, "adapts": group["params"][0].ndim > 1} for group in _groups(module, self.weight_decay)]
        return LayerwiseAdaptiveRate(groups, lr=self.learning_rate, momentum=self.momentum, trust=self.trust)


def _groups(module: torch.nn.Module, weight_decay: float) -> list[dict]:
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _check(settings: Adam | SGD | LARS) -> None:
    if not settings.learning_rate > 0:
        raise ValueError(f"learning_rate must be > 0, got {settings.learning_rate}.")
    if settings.weight_decay < 0:
        raise ValueError(f"weight_decay must be >= 0, got {settings.weight_decay}.")
    decays = settings.betas if isinstance(settings, Adam) else (settings.momentum,)
    if not all(0 <= decay < 1 for decay in decays):
        raise ValueError(f"{'betas' if isinstance(settings, Adam) else 'momentum'} must be in [0, 1), got {decays}.")
