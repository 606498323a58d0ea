"""Settings of a sweep: the `tune` section of a recipe. The `search` section beside it is read by space.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

STRICT = {"extra": "forbid", "strict": True}
Mode = Literal["max", "min"]
SAMPLERS = {
    "random": "medalign.tune.settings:Random",
    "grid": "medalign.tune.settings:Grid",
    "tpe": "medalign.tune.settings:TPE",
}
SCHEDULERS = {
    "none": "medalign.tune.settings:ToTheEnd",
    "asha": "medalign.tune.settings:ASHA",
    "median": "medalign.tune.settings:MedianStopping",
    "pbt": "medalign.tune.settings:PBT",
}


@dataclass(frozen=True, kw_only=True)
class Random:
    """Independent draws. Trial i is a pure function of the seed and of the trials before it (no two are equal).

    Keys with `grid` are crossed with the draws: every point of the grid is tried with each draw.
    """

    __pydantic_config__: ClassVar[dict] = STRICT


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of keys that are `grid` or `choice`, once, the last key varying fastest."""

    __pydantic_config__: ClassVar[dict] = STRICT


@dataclass(frozen=True, kw_only=True)
class TPE:
    """Optuna's tree-structured Parzen estimator; with several metrics it looks for their Pareto front.

    Attributes:
        startup: random trials before it.
        multivariate: model the keys jointly. Keys under a condition are then grouped by which of them exist.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    startup: int = 10
    multivariate: bool = True

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError(f"startup must be >= 1, got {self.startup}.")


@dataclass(frozen=True, kw_only=True)
class ToTheEnd:
    """No trial is stopped early."""

    __pydantic_config__: ClassVar[dict] = STRICT


@dataclass(frozen=True, kw_only=True)
class ASHA:
    """Asynchronous successive halving (Li et al. 2020): at each rung only the best share of the trials goes on.

    Attributes:
        grace: steps that every trial takes, the first rung; in the unit of the reports (epochs of few-shot trials,
            optimizer steps of training).
        reduction: eta, > 1: rungs lie at grace * eta^k, and 1 / eta of the trials pass each.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    grace: int
    reduction: float = 3.0

    def __post_init__(self) -> None:
        if self.grace < 1:
            raise ValueError(f"grace must be >= 1, got {self.grace}.")
        if not self.reduction > 1:
            raise ValueError(f"reduction must be > 1, got {self.reduction}.")


@dataclass(frozen=True, kw_only=True)
class MedianStopping:
    """A trial stops where its best figure is worse than the median of the running means of the others.

    Attributes:
        grace: steps that every trial takes.
        fewest: other trials that must have come as far.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    grace: int
    fewest: int = 3

    def __post_init__(self) -> None:
        for name in ("grace", "fewest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class PBT:
    """Population-based training: the worst trials go on from the best ones' checkpoints with changed values.

    Attributes:
        every: steps between two looks; trials of training must save a checkpoint as often.
        quantile: share of the trials that is replaced, in (0, 0.5].
        resample: probability that a value is drawn anew rather than moved.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    every: int
    quantile: float = 0.25
    resample: float = 0.25

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be >= 1, got {self.every}.")
        if not 0 < self.quantile <= 0.5:
            raise ValueError(f"quantile must be in (0, 0.5], got {self.quantile}.")
        if not 0 <= self.resample <= 1:
            raise ValueError(f"resample must be in [0, 1], got {self.resample}.")


@dataclass(frozen=True, kw_only=True)
class FewShotTrial:
    """What one trial of a few-shot recipe is: a method, trained on folds of its supports, scored on what is left out.

    No test image is looked at. The metric is the mean over the recipe's seeds, each of which draws a support of its
    own, and over the folds of each.

    Attributes:
        task: of the recipe.
        method: of the recipe; the search keys lie below methods.METHOD.
        shots: of the recipe; the supports that are cut into folds.
        folds: into which a support is cut, by group, every class in every part.
        every: epochs between two reports.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    task: str
    method: str
    shots: int
    folds: int = 4
    every: int = 5

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds must be >= 2, got {self.folds}.")
        if self.every < 1:
            raise ValueError(f"every must be >= 1, got {self.every}.")


@dataclass(frozen=True, kw_only=True)
class Tune:
    """How a sweep is run.

    Attributes:
        uri: where it lives: recipe, ledger, trials, best recipe, page.
        metric: what is compared, a figure of the validation; several of them look for a Pareto front (tpe), and the
            first names the best trial.
        mode: "max" or "min", one per metric.
        trials: how many draws; the number of trials but for `grid` keys, see `Random`. 0 with sampler grid: all.
        seed: of the sampler.
        sampler: where the next configuration comes from.
        scheduler: which trials stop early.
        few_shot: what a trial of a few-shot recipe is; null for recipes of training.
        cpus: logical CPUs of one trial with `workers: 0`; a fraction packs several on one core.
        gpus: GPUs of one trial with `workers: 0`; a fraction packs several on one.
        concurrent: trials at a time at most; 0 takes what the cluster has room for.
        max_failures: times that a trial whose worker died is run again. An exception of its own is not run again.
        keep_runs: keep the folders of all training trials; else only the best one's checkpoint stays.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    uri: str
    metric: str | tuple[str, ...]
    mode: Mode | tuple[Mode, ...] = "max"
    trials: int = 0
    seed: int = 0
    sampler: Any = field(default_factory=Random, metadata={"table": SAMPLERS})
    scheduler: Any = field(default_factory=ToTheEnd, metadata={"table": SCHEDULERS})
    few_shot: FewShotTrial | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    concurrent: int = 0
    max_failures: int = 3
    keep_runs: bool = True

    def __post_init__(self) -> None:
        if not self.uri:
            raise ValueError("uri must not be empty.")
        if len(self.metrics) != len(self.modes) or not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"mode must be given once per metric, and metrics differ, got {self.mode!r}.")
        if len(self.metrics) > 1 and not isinstance(self.scheduler, ToTheEnd):
            raise ValueError(
                "scheduler must be none with several metrics: none of them alone says which trial is worse."
            )
        if len(self.metrics) > 1 and not isinstance(self.sampler, TPE | Random | Grid):
            raise ValueError("sampler must be random, grid or tpe with several metrics.")
        for name, low in (("trials", 0), ("concurrent", 0), ("max_failures", 0), ("gpus", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}.")
        if not self.cpus > 0:
            raise ValueError(f"cpus must be > 0, got {self.cpus}.")
        if self.trials == 0 and not isinstance(self.sampler, Grid):
            raise ValueError("trials must be >= 1, got 0.")
        if isinstance(self.scheduler, PBT) and not isinstance(self.sampler, Random):
            raise ValueError("sampler must be random with scheduler pbt, which changes the values itself.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is compared, the first names the best trial."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """One per metric."""
        return (self.mode,) if isinstance(self.mode, str) else tuple(self.mode)


@dataclass(frozen=True, kw_only=True)
class Root:
    """What a recipe's `tune` section is read by."""

    tune: Tune
