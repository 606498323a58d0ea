"""The recipe of a few-shot comparison: which methods, on which data, at how many shots, and what is compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from medalign.data.settings import Views
from medalign.dual_encoders import DUAL_ENCODERS
from medalign_core.metrics.classification import METRICS
from medalign_core.models.dual.settings import Bridge
from medalign_core.objectives.few_shot.registry import FEW_SHOT_METHODS

STRICT = {"extra": "forbid", "strict": True}
METHODS = {**FEW_SHOT_METHODS, "fine_tuned_cnn": "medalign.few_shot.fine_tuned_cnn:FineTunedCnn"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set: where supports are drawn, and where methods are tested.

    Attributes:
        train: URI of the corpus whose train split gives supports.
        tests: corpora whose test split is classified, by name: the same one, and others for a shift of domain.
        bank: URI of the prompt bank, or ready:NAME.
        most_test: test images used, the first of the corpus's order (which is random); 0 takes all.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    train: str
    tests: dict[str, str]
    bank: str
    most_test: int = 0

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("tests must name at least one corpus.")
        if self.most_test < 0:
            raise ValueError(f"most_test must be >= 0, got {self.most_test}.")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a bank's sentences become.

    Attributes:
        control: "shuffled" gives every class another one's sentences, "template" the filled template in their place.
        led_by_template: each sentence follows "a photo of a X.".
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    control: Literal["none", "shuffled", "template"] = "none"
    led_by_template: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table.

    Attributes:
        settings: a method by its name, or `package.module:Class`.
        texts: the sentences it is given.
        epochs: in place of the published number; 0 keeps that.
        views: augmented views of an image that each batch holds, of the view_count there are; what they are to each
            other, the method says (`views` of Dude).
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    settings: Any = field(metadata={"table": METHODS})
    texts: Texts = field(default_factory=Texts)
    epochs: int = 0
    views: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.views < 1:
            raise ValueError(f"epochs must be >= 0 and views >= 1, got {self.epochs} and {self.views}.")


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The one comparison that is declared before the run; all others are secondary."""

    __pydantic_config__: ClassVar[dict] = STRICT

    method: str
    against: str
    shots: int
    metric: str = "balanced_accuracy"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}.")


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """A comparison of few-shot methods: every method on every task, for every number of shots and seed.

    Attributes:
        out: URI of the results.
        tasks: data sets by name.
        methods: rows by name.
        primary: the declared comparison.
        encoder: the frozen dual encoder.
        shots: images per class (balanced), or on average per class (prevalence).
        seeds: each draws its own support; the supports of one seed are nested over the shots.
        base_to_new: train on the first half of each task's classes, test on them and on the other half apart, each
            against its own half alone.
        sampling: "balanced", or "prevalence": classes as frequent as in the train split, at least one image each.
        views: how support images are augmented; the features of so many views of each are cached.
        view_count: A, the views; each epoch draws among them.
        replicates: of the bootstrap.
        level: coverage of intervals.
        workers: tasks at a time on Ray; 0 works in this process.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    out: str
    tasks: dict[str, Task]
    methods: dict[str, Method]
    primary: Primary
    encoder: Any = field(default_factory=Bridge, metadata={"table": DUAL_ENCODERS})
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    base_to_new: bool = False
    sampling: Literal["balanced", "prevalence"] = "balanced"
    views: Views = field(default_factory=lambda: Views(scale=(0.5, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0))
    view_count: int = 4
    replicates: int = 1000
    level: float = 0.95
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("tasks", "methods", "shots", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty.")
        if list(self.shots) != sorted(set(self.shots)) or self.shots[0] < 1:
            raise ValueError(f"shots must rise and be >= 1, got {list(self.shots)}.")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}.")
        if self.view_count < 1 or self.workers < 0 or self.replicates < 1 or not 0 < self.level < 1:
            raise ValueError(
                "view_count and replicates must be >= 1, workers >= 0 and level in (0, 1), "
                f"got {self.view_count}, {self.replicates}, {self.workers} and {self.level}."
            )
        for name in (self.primary.method, self.primary.against):
            if name not in self.methods:
                raise ValueError(f"primary names {name!r}; methods are {', '.join(self.methods)}.")
            if self.base_to_new and not carries_over(self.methods[name]):
                raise ValueError(f"primary names {name!r}, which has no answer to new classes.")
        for name, method in self.methods.items():
            if method.views > self.view_count:
                raise ValueError(f"methods.{name}.views = {method.views}, of view_count = {self.view_count}.")
        if self.primary.shots not in self.shots:
            raise ValueError(f"primary.shots = {self.primary.shots} is none of shots = {list(self.shots)}.")


def carries_over(method: Method) -> bool:
    """Tell whether what a method learns of some classes classifies others; a class of the user's does if it says so."""
    return bool(getattr(method.settings, "carries_over", False))
