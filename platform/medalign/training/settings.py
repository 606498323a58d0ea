"""Settings of the train section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a run trains.

    Attributes:
        workers: processes that train; 0 trains in this process, without Ray.
        min_workers: fewest workers the run goes on with where the cluster has no room for all of them (spot nodes); 0
            waits for all. Samples, graphs and draws stay the same; what was computed since the last checkpoint is
            computed again.
        micro_batch: samples of one forward. Graphs and batch norms live in it, so it is never cut.
        global_batch: samples of one optimizer step, over all workers: a multiple of micro_batch. It fixes the order
            of samples; the number of workers does not.
        steps: optimizer steps; or
        epochs: passes over the corpus; exactly one of the two is set.
        zero_stage: DeepSpeed's ZeRO stage, 0 to 3.
        precision: "fp32", or "bf16" with fp32 master weights.
        clip: largest global gradient norm; 0 does not clip.
        on_nonfinite: a step with a non-finite loss or gradient never reaches the optimizer; "skip" counts it and goes
            on, "stop" ends the run.
        part_norms_every: steps between measurements of the gradient norms of the loss's parts (ar_gradient,
            alignment_gradient); 0 measures never. Not for ZeRO stage 3, whose weights are not whole.
        validate_every: steps between validations; 0 does not validate.
        validation_split: the corpus's split that they use.
        validation_batches: micro-batches of one validation, at most.
        checkpoint_every: steps between checkpoints; 0 saves only at the end.
        keep_last: checkpoints kept beside the best one.
        upload_deadline: seconds that one checkpoint may take to reach a remote run, while training goes on.
        best: the validation figure that names the best checkpoint; a leading minus means lower is better.
        max_failures: times that a failed worker group is started again from the newest checkpoint.
        cpus_per_worker: logical CPUs of one worker; data tasks need what is left.
        gpus_per_worker: GPUs of one worker, 0 or 1.
        threads: CPU threads of one worker's math; 0 shares the cores among the workers.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    workers: int = 2
    min_workers: int = 0
    micro_batch: int
    global_batch: int
    steps: int | None = None
    epochs: int | None = None
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    clip: float = 1.0
    on_nonfinite: Literal["skip", "stop"] = "skip"
    part_norms_every: int = 0
    validate_every: int = 0
    validation_split: str = "val"
    validation_batches: int = 8
    checkpoint_every: int = 0
    keep_last: int = 2
    upload_deadline: float = 900.0
    best: str = "matching_accuracy"
    max_failures: int = 0
    cpus_per_worker: float = 0.5
    gpus_per_worker: Literal[0, 1] = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for name, low in (("micro_batch", 1), ("global_batch", 1), ("keep_last", 1), ("validation_batches", 1)):
            _at_least(low, name, getattr(self, name))
        for name in ("workers", "min_workers", "part_norms_every", "validate_every", "checkpoint_every"):
            _at_least(0, name, getattr(self, name))
        for name in ("max_failures", "threads", "clip"):
            _at_least(0, name, getattr(self, name))
        if self.part_norms_every and self.zero_stage == 3:
            raise ValueError("part_norms_every needs whole weights, which ZeRO stage 3 cuts: set 0, or another stage.")
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch must be a multiple of micro_batch = {self.micro_batch}, got {self.global_batch}."
            )
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps and epochs: set exactly one of them.")
        _at_least(1, "steps" if self.epochs is None else "epochs", self.steps or self.epochs or 0)
        if not self.upload_deadline > 0:
            raise ValueError(f"upload_deadline must be > 0 seconds, got {self.upload_deadline}.")
        if not self.cpus_per_worker > 0:
            raise ValueError(f"cpus_per_worker must be > 0, got {self.cpus_per_worker}.")
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers must be in [0, workers] = [0, {self.workers}], got {self.min_workers}.")
        micro_batches = self.global_batch // self.micro_batch
        if self.workers > micro_batches:
            raise ValueError(
                f"workers must not exceed global_batch / micro_batch = {micro_batches}, got {self.workers};"
                f" 1 to {micro_batches} can keep the order."
            )


def _at_least(low: int, name: str, value: float) -> None:
    if not value >= low:
        raise ValueError(f"{name} must be >= {low}, got {value}.")
