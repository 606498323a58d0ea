"""Who runs the loop: its rank, its world, where it stops. In this process here; a Ray Train worker in launch.py."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medalign.training.contract import Reason


@dataclass
class ProcessSession:
    """One rank of a process group that exists: in-process training (world 1), or a rig of plain subprocesses."""

    rank: int = 0
    world: int = 1
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stop: bool = False
    asked: Callable[[], bool] = bool  # of nothing: False

    def report(self, step: int, values: dict[str, float]) -> None:
        """Keep what was reported."""
        self.reports.append((step, values))

    def stop_requested(self) -> bool:
        """Tell whether `stop` was set, or `asked` says so."""
        return self.stop or self.asked()

    def stop_reason(self, any_rank: Callable[[bool], bool]) -> Reason | None:
        """Who wants to stop has been asked."""
        return "asked"


@contextlib.contextmanager
def process_group(rank: int = 0, world: int = 1, *, store: str | None = None) -> Iterator[None]:
    """Hold a gloo process group on a file store (one of its own for a world of 1), for training without Ray.

    DeepSpeed reads RANK, LOCAL_RANK and WORLD_SIZE; without them it would look for MPI. They are put back at the end.
    """
    import torch.distributed as dist

    wanted = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    before = {name: os.environ.get(name) for name in (*wanted, "DS_ACCELERATOR")}
    os.environ.update(wanted)
    set_accelerator()
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(store or folder) / "store"
            dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=world)
            try:
                yield
            finally:
                _end_process_group()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end_process_group() -> None:
    from medalign.training.engine import end_process_group

    end_process_group()


def set_accelerator() -> None:
    """Tell DeepSpeed to use the CPU where there is no GPU; it would otherwise guess from what is installed."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
