"""The recipe of a few-shot comparison: which methods, on which data, at how many shots, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal

from medalign.data.settings import Views
from medalign.dual_encoders import DUAL_ENCODERS
from medalign.few_shot.corruptions import Corruption
from medalign_core.metrics.classification import METRICS
from medalign_core.models.dual.settings import Bridge
from medalign_core.objectives.few_shot.registry import FEW_SHOT_METHODS
from medalign_core.objectives.few_shot.schedule import Schedule

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
        corruptions: each makes a further test of every one.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    train: str
    tests: dict[str, str]
    bank: str
    most_test: int = 0
    corruptions: tuple[Corruption, ...] = ()

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
class Training:
    """What stands in place of a method's published schedule; what is None stays as published.

    Attributes:
        optimizer: "adam", "adamw" or "sgd".
        learning_rate: its peak.
        adam_epsilon: of Adam and AdamW.
        batch: images per step.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    learning_rate: float | None = None
    adam_epsilon: float | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        self.over(Schedule())

    def over(self, published: Schedule) -> Schedule:
        """Return the schedule with what is given here laid over it."""
        return replace(published, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table.

    Attributes:
        settings: a method by its name, or `package.module:Class`.
        texts: the sentences it is given.
        training: laid over the published schedule.
        epochs: in place of the published number; 0 keeps that.
        views: augmented views of an image that each batch holds, of the view_count there are; what they are to each
            other, the method says (`views` of Dude).
        space: what is tuned where the comparison tunes: values by key below this row, "training.learning_rate" or
            "settings.coupling.epsilon", say. What the row itself says is the first trial.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    settings: Any = field(metadata={"table": METHODS})
    texts: Texts = field(default_factory=Texts)
    training: Training = field(default_factory=Training)
    epochs: int = 0
    views: int = 1
    space: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.views < 1:
            raise ValueError(f"epochs must be >= 0 and views >= 1, got {self.epochs} and {self.views}.")
        for key, values in self.space.items():
            if not values:
                raise ValueError(f"space.{key} must hold at least one value.")
            for value in values:
                self.at({key: value})

    @property
    def schedule(self) -> Schedule:
        """How it is trained."""
        return self.training.over(self.settings.schedule)

    def epochs_for(self, shots: int) -> int:
        """Return how many epochs it is trained for."""
        return self.epochs or self.schedule.epochs_for(shots)

    def at(self, values: Mapping[str, float]) -> Method:
        """Return the row with other values, by key, and nothing left to tune.

        Raises:
            ValueError: no such key, or a value that its settings refuse.
        """
        found = replace(self, space={})
        for key, value in values.items():
            found = _with(found, key.split("."), value, key=key)
        return found


def _with(held: Any, path: list[str], value: float, *, key: str) -> Any:
    name, *below = path
    if not is_dataclass(held) or name not in {entry.name for entry in fields(held)}:
        raise ValueError(f"space.{key}: {type(held).__name__} has no {name!r}.")
    now = getattr(held, name)
    whole = isinstance(now, int) and not isinstance(now, bool) and float(value).is_integer()
    new = _with(now, below, value, key=key) if below else int(value) if whole else value
    return replace(held, **{name: new})  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Every method's row is chosen among so many, within the support of each cell; test images have no part in it.

    Attributes:
        trials: T rows: the one that is written in the recipe, then T - 1 drawn from its space by the cell's seed. A
            method with fewer settings than that to choose among gets all of them.
        folds: F parts of the support, each class dealt over them; a trial is trained F times on all but one.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    trials: int = 4
    folds: int = 2

    def __post_init__(self) -> None:
        if self.trials < 1 or self.folds < 2:
            raise ValueError(f"trials must be >= 1 and folds >= 2, got {self.trials} and {self.folds}.")


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
        features: URI of the kept features, which comparisons of the same data share; "" is OUT/features.
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
        tuning: how every method is tuned within each support; None: rows are as written.
        replicates: of the bootstrap.
        level: coverage of intervals.
        workers: tasks at a time on Ray; 0 works in this process.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    out: str
    tasks: dict[str, Task]
    methods: dict[str, Method]
    primary: Primary
    features: str = ""
    encoder: Any = field(default_factory=Bridge, metadata={"table": DUAL_ENCODERS})
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    base_to_new: bool = False
    sampling: Literal["balanced", "prevalence"] = "balanced"
    views: Views = field(default_factory=lambda: Views(scale=(0.5, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0))
    view_count: int = 4
    tuning: Tuning | None = None
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
        if self.base_to_new and any(task.corruptions for task in self.tasks.values()):
            raise ValueError("corruptions and base_to_new do not go together.")
        if self.tuning and self.shots[0] < self.tuning.folds:
            raise ValueError(f"tuning.folds = {self.tuning.folds} parts, of {self.shots[0]} images of a class.")
        if self.primary.shots not in self.shots:
            raise ValueError(f"primary.shots = {self.primary.shots} is none of shots = {list(self.shots)}.")


def carries_over(method: Method) -> bool:
    """Tell whether what a method learns of some classes classifies others; a class of the user's does if it says so."""
    return bool(getattr(method.settings, "carries_over", False))
