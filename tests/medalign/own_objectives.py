"""Objectives of a user: InfoNCE that kills its own process in the middle of a step, or tells what it sees."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import ray
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


@dataclass(frozen=True, kw_only=True)
class Telling(InfoNCE):
    """InfoNCE that tells, line by line in a file, which process met which samples when.

    Attributes:
        log: the file.
        pause: seconds that a forward takes longer, for runs that must last.
    """

    log: str = ""
    pause: float = 0.0

    def build(self, model: nn.Module) -> InfoNCEModule:
        """Return the module."""
        module = InfoNCEModule(self, model)
        module.register_forward_pre_hook(self._tell)
        return module

    def _tell(self, module: nn.Module, arguments: tuple[ImageBatch]) -> None:
        (batch,) = arguments
        if not batch.weight or not module.training:
            return
        time.sleep(self.pause)
        first = not getattr(module, "has_told", False)
        module.has_told = True  # type: ignore[assignment]
        place = {"step": batch.key.step, "index": batch.key.index, "rank": int(os.environ["RANK"]), "pid": os.getpid()}
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        line = {**place, "time": time.time(), "new": first, "node": node, "ids": batch.ids.tolist()}
        with open(self.log, "a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True, kw_only=True)
class Failing(InfoNCE):
    """InfoNCE that raises on one rank, and leaves the time at which it did in a file.

    Attributes:
        fails_at: the step.
        rank: the rank.
        marker: the file.
    """

    fails_at: int = 5
    rank: int = 1
    marker: str = ""

    def build(self, model: nn.Module) -> InfoNCEModule:
        """Return the module."""
        module = InfoNCEModule(self, model)
        module.register_forward_pre_hook(self._fail)
        return module

    def _fail(self, module: nn.Module, arguments: tuple[ImageBatch]) -> None:
        (batch,) = arguments
        if (batch.key.step, int(os.environ["RANK"])) == (self.fails_at, self.rank):
            Path(self.marker).write_text(str(time.time()))
            raise KeyError("planted")


@dataclass(frozen=True, kw_only=True)
class Slow(InfoNCE):
    """InfoNCE whose forwards take long from step 3 on.

    Attributes:
        seconds: how long.
    """

    seconds: float = 30.0

    def build(self, model: nn.Module) -> InfoNCEModule:
        """Return the module."""
        module = InfoNCEModule(self, model)
        module.register_forward_pre_hook(lambda _, batches: time.sleep(self.seconds * (batches[0].key.step >= 3)))
        return module
