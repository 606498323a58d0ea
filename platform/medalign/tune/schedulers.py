"""Settings of a scheduler -> Tune's own."""

from __future__ import annotations

import math
from typing import Any

from ray.tune import schedulers

from medalign.tune.settings import ASHA, MedianStopping, Tune


def build_scheduler(settings: Tune, *, total: int) -> Any:
    """Return the scheduler of a sweep whose trials take `total` steps at most."""
    chosen = settings.scheduler
    known: dict[str, Any] = {"metric": f"values/{settings.metrics[0]}", "mode": settings.modes[0], "time_attr": "step"}
    if isinstance(chosen, ASHA):
        return schedulers.AsyncHyperBandScheduler(
            **known, max_t=total, grace_period=chosen.grace, reduction_factor=chosen.reduction
        )
    if isinstance(chosen, MedianStopping):
        never: Any = math.inf
        # it would pause trials until others have come as far: without a checkpoint to go on from, that is work lost
        return schedulers.MedianStoppingRule(
            **known, grace_period=chosen.grace, min_samples_required=chosen.fewest, min_time_slice=never
        )
    return schedulers.FIFOScheduler()
