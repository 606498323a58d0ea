"""Settings of an evaluation on annotated images."""

from __future__ import annotations

from dataclasses import dataclass

from medalign.evaluation.annotated.shifts import SHIFTS


@dataclass(frozen=True, kw_only=True)
class AnnotatedSettings:
    """How predictions are made and scored.

    Attributes:
        split: which split is scored.
        shift: a declared, synthetic shift of the scored images, a name of `shifts.SHIFTS`; "" for none.
        batch: images predicted at once.
        replicates: bootstrap resamples of whole groups.
        level: nominal coverage of the intervals, in (0, 1).
        seed: of the resamples.
        specificity: at which sensitivity is given, with the threshold chosen on the validation split; in (0, 1].
        tolerance: of the surface Dice, in mm where the corpus knows its spacing, else in pixels.
        lesion_overlap: the share of a lesion that must be covered for it to count as found, in (0, 1].
        bins: of the reliability curve.
        surfaces: whether distances between surfaces and lesions are computed: most of the time goes there.
    """

    split: str = "test"
    shift: str = ""
    batch: int = 16
    replicates: int = 1000
    level: float = 0.95
    seed: int = 0
    specificity: float = 0.9
    tolerance: float = 2.0
    lesion_overlap: float = 0.1
    bins: int = 15
    surfaces: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "replicates", "bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie in (0, 1), got {self.level}.")
        for name in ("specificity", "lesion_overlap"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")
        if self.shift and self.shift not in SHIFTS:
            raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, got {self.shift!r}.")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0, got {self.tolerance}.")
