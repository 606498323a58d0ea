"""Images per second and the share of time spent waiting for data; validations and checkpoints do not count."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Measures this rank between two laps."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._images, self._waited, self._worked = 0, 0.0, 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Count the block as training time."""
        since = time.perf_counter()
        yield
        self._worked += time.perf_counter() - since

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block, inside a step, as waiting for data."""
        since = time.perf_counter()
        yield
        self._waited += time.perf_counter() - since

    def saw(self, images: int) -> None:
        """Count images."""
        self._images += images

    def lap(self, world: int) -> dict[str, float]:
        """Return the figures since the last lap; the `world` ranks work in step, so one stands for each."""
        worked = max(self._worked, 1e-9)
        figures = {
            "images_per_second": self._images * world / worked,
            "data_wait": min(1.0, self._waited / worked),
            "seconds": time.perf_counter() - self._began,
        }
        self._images, self._waited, self._worked = 0, 0.0, 0.0
        return figures
