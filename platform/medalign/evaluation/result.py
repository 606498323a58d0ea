"""What an evaluation returns and stores: predictions (Parquet) and the scores that follow from them (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from medalign.errors import RunError
from medalign_core.metrics.intervals import Difference, Interval

SCHEMA_VERSION = "medalign.evaluation/1"
SCORES, PREDICTIONS = "scores.json", "predictions.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The images of a split that could be read and have a label.

    Attributes:
        ids: (N,) the corpus's row ids.
        groups: (N,) patient, photograph or volume: what is resampled.
        labels: (N,) class indices.
    """

    ids: ndarray
    groups: ndarray
    labels: Int[ndarray, " N"]

    def take(self, places: ndarray) -> Samples:
        """Return the samples at `places`."""
        return Samples(ids=self.ids[places], groups=self.groups[places], labels=self.labels[places])


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What one head on one method's features says of every test sample.

    Attributes:
        method: "pretrained", "random" or "pixels".
        head: "logistic" or "knn".
        seed: the seed of the pretraining run or of the initialisation; 0 for pixels, which have none.
        chosen: the head's hyperparameter: C of the logistic regression, k of k-NN.
        probabilities: (N, C), rows sum to 1.
    """

    method: str
    head: str
    seed: int
    chosen: float
    probabilities: Float[ndarray, "N C"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the table: a head on a method's features, with an interval per metric."""

    method: str
    head: str
    seed: int
    chosen: float
    metrics: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired comparison of two methods under one head and metric.

    Attributes:
        role: "primary", the one declared before looking, or "secondary".
        adjusted: the p-value, Holm-corrected among the secondary ones; the primary one's stands as it is.
        verdict: "higher", "lower" or "not distinguishable", of `method` against `against`.
    """

    method: str
    against: str
    head: str
    metric: str
    role: str
    difference: Difference
    adjusted: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The scores of one evaluation; `uri` is the folder that holds them and the predictions.

    Attributes:
        rows: labelled, readable images per split.
        groups: groups per split.
        selection: how the heads' hyperparameters were chosen.
        notes: what a reader of the numbers must know: rows left out, fits that did not converge, small samples.
    """

    run: str
    corpus: str
    fingerprint: str
    task: str
    checkpoint: str
    classes: tuple[str, ...]
    rows: dict[str, int]
    groups: dict[str, int]
    selection: str
    level: float
    replicates: int
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    uri: str
    schema: str = SCHEMA_VERSION

    @property
    def primary(self) -> Comparison | None:
        """The comparison that was declared before looking; None where there was nothing to compare with."""
        return next((c for c in self.comparisons if c.role == "primary"), None)

    def lines(self, metric: str = "balanced_accuracy") -> list[str]:
        """Return one metric of every row and the primary comparison as lines of text, for a terminal."""
        rows = [
            f"{s.method:<10}  {s.head:<8}  seed {s.seed}  {metric} {spread(s.metrics[metric])}" for s in self.scores
        ]
        if (c := self.primary) is not None:
            kind = f"{c.method} - {c.against}, {c.head}, {c.metric}"
            rows.append(f"primary comparison ({kind}): {spread(c.difference, sign='+')}: {c.verdict}")
        return rows

    def dumps(self) -> str:
        """Return the result as JSON; a number that does not exist (NaN) becomes null."""
        return json.dumps(nulls(asdict(self)), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def loads(text: str | bytes, *, where: str) -> EvaluationResult:
    """Read what `EvaluationResult.dumps` wrote; `where` is named in an error.

    Raises:
        RunError: not JSON, of another schema, or incomplete.
    """
    try:
        raw = json.loads(text)
        if raw["schema"] != SCHEMA_VERSION:
            raise RunError(f"{where}: schema {raw['schema']!r}, this release reads {SCHEMA_VERSION!r}; evaluate again.")
        tuples = {name: tuple(raw[name]) for name in ("classes", "notes")}
        scores, comparisons = tuple(map(_score, raw["scores"])), tuple(map(read_comparison, raw["comparisons"]))
        return EvaluationResult(**{**raw, **tuples, "scores": scores, "comparisons": comparisons})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: no evaluation to read ({error}); evaluate again.") from error


def to_parquet(predictions: Sequence[Predictions], samples: Samples, classes: Sequence[str]) -> bytes:
    """Return the predictions as one Parquet file: a row per method, head, seed and sample.

    `probabilities` is a list in the order of `classes`, which the file's metadata also holds.
    """
    names, size = np.asarray(classes, dtype=object), len(samples.ids)
    tables = [
        pa.table(
            {
                "id": pa.array(samples.ids, pa.string()),
                "group": pa.array(samples.groups, pa.string()),
                "label": pa.array(names[samples.labels], pa.string()),
                "method": pa.array([entry.method] * size, pa.string()),
                "head": pa.array([entry.head] * size, pa.string()),
                "seed": pa.array([entry.seed] * size, pa.int64()),
                "chosen": pa.array([entry.chosen] * size, pa.float64()),
                "predicted": pa.array(names[entry.probabilities.argmax(1)], pa.string()),
                "probabilities": pa.array(list(entry.probabilities), pa.list_(pa.float64())),
            }
        )
        for entry in predictions
    ]
    table = pa.concat_tables(tables).replace_schema_metadata({"classes": json.dumps(list(classes))})
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes) -> tuple[list[Predictions], Samples, tuple[str, ...]]:
    """Read what `to_parquet` wrote: scores can be computed again from it, with other metrics or intervals."""
    table = pq.read_table(BytesIO(data))
    classes = tuple(json.loads(table.schema.metadata[b"classes"]))
    keys = ("method", "head", "seed", "chosen")
    columns = [table.column(name).to_pylist() for name in keys]
    entries = list(dict.fromkeys(zip(*columns, strict=True)))
    size = table.num_rows // len(entries)
    probabilities = np.array(table.column("probabilities").to_pylist()).reshape(len(entries), size, len(classes))
    place = {name: index for index, name in enumerate(classes)}
    head = table.slice(0, size)
    samples = Samples(
        ids=np.array(head.column("id").to_pylist(), dtype=object),
        groups=np.array(head.column("group").to_pylist(), dtype=object),
        labels=np.array([place[label] for label in head.column("label").to_pylist()]),
    )
    found = [
        Predictions(**dict(zip(keys, entry, strict=True)), probabilities=probabilities[i])
        for i, entry in enumerate(entries)
    ]
    return found, samples, classes


def read_comparison(raw: dict[str, Any]) -> Comparison:
    """Return the comparison of its JSON object."""
    difference = nans(raw["difference"])
    difference["per_seed"] = tuple(math.nan if value is None else value for value in difference["per_seed"])
    return Comparison(**{**raw, "difference": Difference(**difference)})


def nulls(value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, a number that does not exist (NaN) as None."""
    if isinstance(value, dict):
        return {key: nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nans(raw: dict[str, Any]) -> dict[str, Any]:
    """Return an object's numbers as they were before `nulls`."""
    return {key: math.nan if value is None else value for key, value in raw.items()}


def spread(found: Interval | Difference, sign: str = "") -> str:
    """Return an estimate and its interval as text."""
    return f"{found.estimate:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _score(raw: dict[str, Any]) -> Score:
    return Score(**{**raw, "metrics": {name: Interval(**nans(value)) for name, value in raw["metrics"].items()}})
