"""Operations, hours and money of a run, each with a range; and the size of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medalign.checkpoint.layout import plan_files

SPREAD = 1 / 3  # of the utilisation that is stated: 30 % stands for 20 % to 40 %
MOMENTS: Mapping[str, tuple[str, ...]] = {
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "SGD": ("momentum_buffer",),
    "LARS": ("momentum_buffer",),
}


@dataclass(frozen=True, kw_only=True)
class Range:
    """An estimate and the range that it is good for."""

    low: float
    estimate: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs.

    Attributes:
        flops: floating-point operations of the whole run, counted operation by operation in a rehearsal, recomputation
            included; a multiplication and an addition are two.
        rule: of the language model by the rule of thumb c P T: P weights, T tokens, and c = 2 forward, 2 for the
            gradients of what it reads, 2 for those of its weights if they train, 2 for recomputation if it
            checkpoints; None without a language model.
        utilisation: the share of the peak that is assumed.
        hours: wall-clock hours on all GPUs; None without a GPU.
        rule_hours: the same by the rule of thumb.
        dollars: at the stated price per GPU and hour; None without one.
        samples_per_second: of the whole run, at the estimate.
    """

    flops: float | None
    rule: float | None
    utilisation: float
    hours: Range | None
    rule_hours: Range | None
    dollars: Range | None
    samples_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        bytes: of one: fp32 weights that train, and what the optimizer keeps of them.
        kept: how many are there at once, the best one included.
        upload_seconds: for one, all workers uploading their share at once.
        interval_steps: between two.
    """

    bytes: int
    kept: int
    upload_seconds: float
    interval_steps: int


def cost_of(
    *,
    flops: float | None,
    rule: float | None,
    samples: int,
    speed: float | None,
    gpus: int,
    utilisation: float,
    price: float | None,
) -> Cost:
    """Return the cost of a run.

    Args:
        flops: of the run, None where it could not be rehearsed.
        rule: by the rule of thumb, None where it does not apply.
        samples: of the run.
        speed: operations a second of one GPU at its peak, None without a GPU.
        gpus: how many.
        utilisation: share of the peak, in (0, 1].
        price: dollars per GPU and hour.
    """
    counted = rule if flops is None else flops
    hours = _hours(counted, speed, gpus, utilisation)
    return Cost(
        flops=flops,
        rule=rule,
        utilisation=utilisation,
        hours=hours,
        rule_hours=_hours(rule, speed, gpus, utilisation),
        dollars=None if hours is None or price is None else _scaled(hours, gpus * price),
        samples_per_second=None if hours is None else samples / (3600 * hours.estimate),
    )


def rule_of_thumb(weights: int, tokens: float, *, trains: bool, checkpoints: bool) -> float:
    """Return c P T, c = 4 + 2 where the language model trains + 2 where it is checkpointed."""
    return (4 + 2 * trains + 2 * checkpoints) * weights * tokens


def checkpoints_of(
    shapes: Mapping[str, tuple[int, ...]],
    buffers: Mapping[str, tuple[int, ...]],
    *,
    optimizer: str,
    workers: int,
    keep: int,
    every: int,
    upload_rate: float,
) -> Checkpoints:
    """Return the checkpoints of a run: the bytes are those that the layout of their files gives.

    Args:
        shapes: of the trained weights.
        buffers: of running statistics.
        optimizer: the name of its settings.
        workers: that write.
        keep: beside the best one.
        every: steps between two; 0 for the end alone.
        upload_rate: bytes a second of one worker.
    """
    files = plan_files(shapes, keys=MOMENTS.get(optimizer, ()), buffers=buffers, world=max(workers, 1), attempt="0" * 8)
    share = max(
        sum(file.bytes for file in files if file.rank == rank) for rank in range(max(workers, 1))
    )  # of the slowest
    return Checkpoints(
        bytes=sum(file.bytes for file in files),
        kept=keep + 1,
        upload_seconds=share / upload_rate,
        interval_steps=every,
    )


def _hours(flops: float | None, speed: float | None, gpus: int, utilisation: float) -> Range | None:
    if flops is None or speed is None:
        return None
    seconds = flops / (speed * gpus * utilisation)
    return Range(low=seconds / (1 + SPREAD) / 3600, estimate=seconds / 3600, high=seconds / (1 - SPREAD) / 3600)


def _scaled(values: Range, by: float) -> Range:
    return Range(low=values.low * by, estimate=values.estimate * by, high=values.high * by)
