"""A module around a pretrained encoder that is tuned with its head, or stays frozen under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from medalign_core.models.encoders import ImageEncoder


class TunedEncoder(nn.Module):
    """Holds an encoder. A frozen one has no gradients and stays in eval mode: no weight and no statistic changes.

    Args:
        encoder: the encoder.
        frozen: keep it as it is.
    """

    def __init__(self, encoder: ImageEncoder, *, frozen: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen = frozen
        if frozen:
            encoder.requires_grad_(False)
            encoder.eval()

    def train(self, mode: bool = True) -> TunedEncoder:
        """Set the mode of everything but a frozen encoder."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Keep no graph of a frozen encoder while the block lasts."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            yield
