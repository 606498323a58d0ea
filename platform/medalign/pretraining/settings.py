"""The recipe of a comparison of pretraining objectives: which arms, on which data, which comparison is declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

STRICT = {"extra": "forbid", "strict": True}
# what any pretraining must beat: the untrained encoder, and what needs no encoder
RANDOM, PIXELS, MEAN_COLOUR, IMAGE_EXTENT = "random", "pixels", "mean_colour", "image_extent"
FLOORS = (RANDOM, PIXELS, MEAN_COLOUR, IMAGE_EXTENT)
IMAGENET = "imagenet"  # EfficientNet-Lite0 of an installed package: a yardstick, no competitor at this budget
LINEAR, NEAREST = "logistic", "knn"
METRIC = "balanced_accuracy"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set: what is pretrained on, and where the frozen encoder is judged.

    Attributes:
        corpus: URI; its train split pretrains, without labels, and then fits the heads, with them.
        tests: corpora whose test split is classified, by name: the same one, and others for a shift of domain.
        steps: optimizer steps of each pretraining.
        most: labelled images of each split used by heads and tests, the first of the corpus's order (which is random);
            0 takes all.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    corpus: str
    tests: dict[str, str]
    steps: int
    most: int = 0

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("tests must name at least one corpus.")
        if self.steps < 1 or self.most < 0:
            raise ValueError(f"steps must be >= 1 and most >= 0, got {self.steps} and {self.most}.")


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The one comparison that is declared before the run, of linear probes; all others are secondary."""

    __pydantic_config__: ClassVar[dict] = STRICT

    method: str
    against: str
    task: str
    test: str


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How frozen features are judged, the same for every method.

    Attributes:
        penalties: the grid of C of the logistic regression; the validation split chooses, or grouped folds.
        neighbours: the grid of k, chosen likewise.
        shots: labels per class of the label-scarce points; there C is `scarce_penalty`, for there is nothing to choose
            by.
        scarce_penalty: see `shots`.
        pixel_size: images are this wide and high as raw pixels.
        imagenet_size: likewise for the ImageNet network.
        replicates: of the bootstrap.
        level: of the intervals.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    penalties: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1, 1.0)
    neighbours: tuple[int, ...] = (1, 5, 10, 20, 50)
    shots: tuple[int, ...] = (1, 4, 16)
    scarce_penalty: float = 0.1
    pixel_size: int = 16
    imagenet_size: int = 128
    replicates: int = 1000
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.penalties or not self.neighbours or min(*self.penalties, self.scarce_penalty) <= 0:
            raise ValueError("penalties and neighbours must not be empty, penalties and scarce_penalty > 0.")
        if list(self.shots) != sorted(set(self.shots)) or (self.shots and self.shots[0] < 1):
            raise ValueError(f"shots must rise and be >= 1, got {list(self.shots)}.")
        if min(self.pixel_size, self.imagenet_size, self.replicates) < 1 or not 0 < self.level < 1:
            raise ValueError(
                "pixel_size, imagenet_size and replicates must be >= 1 and level in (0, 1), "
                f"got {self.pixel_size}, {self.imagenet_size}, {self.replicates} and {self.level}."
            )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of pretraining objectives: every arm on every task for every seed, all else equal.

    Attributes:
        out: URI of the results.
        base: the recipe of every run: a shipped name, or a YAML file.
        common: overrides of it that every arm has.
        arms: by name, the overrides in which an arm differs from the base, such as ["objective={type: simclr}"].
        tasks: data sets by name.
        primary: the declared comparison.
        seeds: each is a pretraining of every arm, and a draw of the label-scarce supports.
        imagenet: show the packaged ImageNet network beside the arms.
        probing: how features are judged.
    """

    __pydantic_config__: ClassVar[dict] = STRICT

    out: str
    base: str
    common: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]]
    tasks: dict[str, Task]
    primary: Primary
    seeds: tuple[int, ...] = (0, 1, 2)
    imagenet: bool = True
    probing: Probing = Probing()

    def __post_init__(self) -> None:
        for name in ("arms", "tasks", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty.")
        if taken := set(self.arms) & {*FLOORS, IMAGENET}:
            raise ValueError(f"arms: {min(taken)!r} is the name of what arms are compared with.")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}.")
        for name in (self.primary.method, self.primary.against):
            if name not in self.methods:
                raise ValueError(f"primary names {name!r}; methods are {', '.join(self.methods)}.")
        if self.primary.test not in getattr(self.tasks.get(self.primary.task), "tests", ()):
            raise ValueError(f"primary: no test {self.primary.test!r} of task {self.primary.task!r}.")

    @property
    def methods(self) -> tuple[str, ...]:
        """Every row of the table."""
        return (*self.arms, *FLOORS, *((IMAGENET,) if self.imagenet else ()))

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads: with all labels, then with few."""
        return (LINEAR, NEAREST, *map(scarce, self.probing.shots))


def scarce(shots: int) -> str:
    """Return the name of the linear head that has so many labels per class."""
    return f"{LINEAR} of {shots} per class"
