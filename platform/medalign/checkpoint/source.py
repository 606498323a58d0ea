"""What has full tensors, on one of several ranks: the engine. And how the ranks agree that something went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from medalign.errors import CheckpointError, DiskFullError, MedAlignError

WEIGHT = "weight"  # the key of a parameter's own tensor; the optimizer's tensors have the optimizer's names


class TensorSource(Protocol):
    """A module's full tensors, one at a time. What is collective is called on every rank, in the same order."""

    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def world(self) -> int: ...  # noqa: D102

    def names(self) -> list[str]: ...  # noqa: D102
    def shapes(self) -> dict[str, tuple[int, ...]]: ...  # noqa: D102

    def optimizer_keys(self) -> list[str]:
        """Return the optimizer's tensors of each parameter; none before its first step."""

    def planned_keys(self) -> list[str]:
        """Return what `optimizer_keys` will be after the first step, as far as it is known."""

    def optimizer_step(self) -> int: ...  # noqa: D102

    def prepare_optimizer(self, keys: list[str], step: int) -> None:
        """Make room for the optimizer's tensors, before `scatter` fills them."""

    def gather(self, name: str, key: str = WEIGHT, *, owner: int | None = None) -> Tensor | None:
        """Return one full tensor of a parameter on its owner, or on every rank; others may get None. Collective."""

    def scatter(self, name: str, key: str, value: Tensor) -> None:
        """Set one full tensor of a parameter. Collective."""

    def buffers(self) -> dict[str, Tensor]: ...  # noqa: D102
    def load_buffers(self, tensors: dict[str, Tensor]) -> None: ...  # noqa: D102

    def share(self, value: Tensor | None, shape: tuple[int, ...], *, owner: int) -> Tensor:
        """Return the owner's fp32 tensor on every rank. Collective."""

    def barrier(self) -> None: ...  # noqa: D102

    def any_rank(self, value: bool) -> bool:
        """Tell whether `value` is true on any rank. Collective."""


@contextlib.contextmanager
def together(source: TensorSource, doing: str) -> Iterator[None]:
    """Run a block that holds no collective call; if it fails on any rank, every rank raises. Collective.

    Else the others would wait for the failed one in their next collective call.
    """
    problem: MedAlignError | None = None
    try:
        yield
    except MedAlignError as error:
        problem = error
    agree(source, problem, doing)


def agree(source: TensorSource, problem: MedAlignError | None, doing: str) -> None:
    """Raise on every rank if any has a problem: its own, or one that says that another rank has one. Collective."""
    if not source.any_rank(problem is not None):
        return
    is_full = source.any_rank(isinstance(problem, DiskFullError))
    if problem is not None:
        raise problem
    kind = DiskFullError if is_full else CheckpointError
    raise kind(f"{doing}: {'the disk is full on' if is_full else 'failed on'} another rank, which says why.")
