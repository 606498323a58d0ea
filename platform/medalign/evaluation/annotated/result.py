"""What an evaluation on annotated images returns and stores: scores (JSON) that follow from predictions (Parquet)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from medalign import storage
from medalign.errors import RunError
from medalign.evaluation.result import nans, nulls, spread
from medalign_core.metrics.intervals import Interval

SCHEMA_VERSION = "medalign.annotated/1"
SCORES, PREDICTIONS = "annotated.json", "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """The primary score of the units with one value of an attribute."""

    attribute: str
    value: str
    units: int
    groups: int
    score: Interval


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A class against the rest at a threshold that the validation split has chosen.

    Attributes:
        wanted: the specificity that the threshold was chosen for.
        threshold: the class is called where its probability is above it.
        sensitivity, specificity: on the scored split; None before they are known.
    """

    name: str
    wanted: float
    threshold: float
    sensitivity: Interval | None = None
    specificity: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The reliability curve: mean confidence, accuracy and number of samples of each bin; None for an empty one."""

    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AnnotatedResult:
    """The scores of one evaluation; `uri` is the folder that holds them and the predictions.

    Attributes:
        task: "classification", "segmentation" or "detection".
        units: what is counted: "image" or "volume"; `count` of them.
        groups: patients, photographs or volumes, which are resampled whole.
        primary: the metric that subgroups and comparisons are about, declared before looking.
        metrics: over all classes.
        per_class: of each class.
        subgroups: by attribute, the worst first.
        operating_points: sensitivity at a fixed specificity.
        reliability: of a classification.
        notes: what a reader of the numbers must know.
        seen: ids of scored images that the run, or one that it goes on from, was trained on; None if nobody looked.
    """

    run: str
    corpus: str
    fingerprint: str
    task: str
    checkpoint: str
    split: str
    classes: tuple[str, ...]
    units: str
    count: int
    groups: int
    level: float
    replicates: int
    primary: str
    metrics: dict[str, Interval]
    per_class: dict[str, dict[str, Interval]]
    subgroups: tuple[Subgroup, ...]
    operating_points: tuple[OperatingPoint, ...]
    reliability: Reliability | None
    notes: tuple[str, ...]
    uri: str
    settings: dict[str, Any] = field(default_factory=dict)
    seen: tuple[str, ...] | None = None
    schema: str = SCHEMA_VERSION

    def lines(self) -> list[str]:
        """Return the scores as lines of text, the primary one first."""
        order = sorted(self.metrics, key=lambda name: name != self.primary)
        rows = [f"{name}  {spread(self.metrics[name])}" for name in order]
        for name, metrics in self.per_class.items():
            rows += [f"  {name}: " + ", ".join(f"{metric} {spread(value)}" for metric, value in metrics.items())]
        rows += [f"{s.attribute} = {s.value} (n {s.units}): {self.primary} {spread(s.score)}" for s in self.subgroups]
        for point in self.operating_points:
            if point.sensitivity is not None and point.specificity is not None:
                said = f"sensitivity {spread(point.sensitivity)}, specificity {spread(point.specificity)}"
                rows.append(f"{point.name} at {point.threshold:.3f} (for specificity {point.wanted:g}): {said}")
        return rows

    def dumps(self) -> str:
        """Return the result as JSON; a number that does not exist (NaN) becomes null."""
        return json.dumps(nulls(asdict(self)), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def loads(text: str | bytes, *, where: str) -> AnnotatedResult:
    """Read what `AnnotatedResult.dumps` wrote; `where` is named in an error.

    Raises:
        RunError: not JSON, of another schema, or incomplete.
    """
    try:
        raw = json.loads(text)
        if raw["schema"] != SCHEMA_VERSION:
            raise RunError(f"{where}: schema {raw['schema']!r}, this release reads {SCHEMA_VERSION!r}; evaluate again.")
        return AnnotatedResult(
            **{
                **raw,
                "classes": tuple(raw["classes"]),
                "notes": tuple(raw["notes"]),
                "metrics": _intervals(raw["metrics"]),
                "per_class": {name: _intervals(each) for name, each in raw["per_class"].items()},
                "subgroups": tuple(Subgroup(**{**s, "score": _interval(s["score"])}) for s in raw["subgroups"]),
                "operating_points": tuple(_point(each) for each in raw["operating_points"]),
                "reliability": _reliability(raw["reliability"]),
                "seen": None if raw["seen"] is None else tuple(raw["seen"]),
            }
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: no evaluation to read ({error}); evaluate again.") from error


def load(uri: str) -> AnnotatedResult:
    """Return the result in an evaluation's folder.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    where = storage.join(uri, SCORES)
    if not storage.exists(where):
        raise RunError(f"{uri}: no evaluation here ({SCORES} is missing); run `medalign evaluate`.")
    return loads(storage.read_bytes(where), where=where)


def _interval(raw: dict[str, Any]) -> Interval:
    return Interval(**nans(raw))


def _intervals(raw: dict[str, Any]) -> dict[str, Interval]:
    return {name: _interval(each) for name, each in raw.items()}


def _point(raw: dict[str, Any]) -> OperatingPoint:
    return OperatingPoint(
        **{**raw, **{name: raw[name] and _interval(raw[name]) for name in ("sensitivity", "specificity")}}
    )


def _reliability(raw: dict[str, Any] | None) -> Reliability | None:
    return None if raw is None else Reliability(**{name: tuple(values) for name, values in raw.items()})
