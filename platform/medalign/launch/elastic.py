"""A run whose number of workers changes: the stream is dealt anew to as many as each worker group has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray.train

from medalign.data import stream
from medalign.training.settings import Train

LOOK_EVERY_S = 30.0  # at which Ray asks whether more workers have room

_train: Any = ray.train  # type checkers see the API before Train V2, which is what runs


def worker_range(settings: Train) -> int | tuple[int, int]:
    """Return how many workers Ray Train may start: exactly so many, or (least, most)."""
    return (settings.min_workers, settings.workers) if settings.min_workers else settings.workers


def patience(settings: Train) -> int:
    """Return how often a worker group may fail to start: a node that has just died is still counted on for a while."""
    return max(3, settings.max_failures) if settings.min_workers else 0


class Dealing(_train.DataConfig):
    """Deals the dataset that `make` returns for a number of workers; Ray asks at each start of a worker group.

    Ray splits a dataset among whatever workers there are. Ours has its padding micro-batches laid out for a number of
    workers, so it is made when that number is known.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        super().__init__(execution_options=stream.execution_options(), enable_shard_locality=False)
        self._make = make

    def configure(self, datasets: dict[str, Any], world_size: int, *others: Any, **named: Any) -> list[dict[str, Any]]:
        """Return each rank's share of the dataset for `world_size` ranks, under the name that was asked for."""
        made = {name: self._make(world_size) for name in datasets}
        return super().configure(made, world_size, *others, **named)
