"""Objectives of a user: InfoNCE that kills its own process, once, in the middle of a step."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medalign_core.objectives.info_nce.module import InfoNCEModule
from medalign_core.objectives.info_nce.settings import InfoNCE
from medalign_core.types import ImageBatch


@dataclass(frozen=True, kw_only=True)
class Mortal(InfoNCE):
    """InfoNCE whose process dies by SIGKILL when it meets micro-batch 1 of a step for the first time.

    Attributes:
        dies_at: the step; -1 never dies.
        marker: a file that tells that it has died.
    """

    dies_at: int = -1
    marker: str = ""

    def build(self, model: nn.Module) -> InfoNCEModule:
        """Return the module."""
        module = InfoNCEModule(self, model)
        module.register_forward_pre_hook(self._die)
        return module

    def _die(self, module: nn.Module, arguments: tuple[ImageBatch]) -> None:
        (batch,) = arguments
        if (batch.key.step, batch.key.index) == (self.dies_at, 1) and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
