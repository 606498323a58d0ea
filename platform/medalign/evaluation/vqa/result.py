"""What an evaluation by questions stores: predictions (Parquet), and scores (JSON) that follow from them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from medalign import storage
from medalign.errors import RunError
from medalign.evaluation.result import PREDICTIONS, SCORES, Comparison, nans, nulls, read_comparison
from medalign_core.metrics.intervals import Interval

SCHEMA_VERSION = "medalign.vqa/1"
TABLE = "results.md"
COLUMNS = {
    "open_recall": "open recall",
    "open_recall_corrected": "open recall*",
    "open_candidates": "open, of candidates",
    "closed_accuracy": "closed",
    "closed_accuracy_corrected": "closed*",
    "choice_accuracy_corrected": "of options*",
    "score_corrected": "score*",
}


@dataclass(frozen=True, kw_only=True)
class VqaScore:
    """One line of the table: a model, a floor or a control.

    Attributes:
        model: its name.
        seed: of its training.
        decoding: how its answers came about: see `Predictions`; "floor" for what sees no image.
        questions: how many it was asked.
        failures: how many it did not answer; they count as wrong.
        metrics: every score over all questions.
        types: headline scores of each question type.
    """

    model: str
    seed: int
    decoding: str
    questions: int
    failures: int
    metrics: dict[str, Interval]
    types: dict[str, dict[str, Interval]]


@dataclass(frozen=True, kw_only=True)
class VqaResult:
    """The scores of one evaluation; `uri` is the folder that holds them and the predictions.

    Attributes:
        model: what was evaluated: a directory, a file of predictions, an endpoint's model.
        corpus: its URI.
        fingerprint: of the corpus.
        split: which split.
        questions: how many were asked.
        of: how many the split has.
        groups: images, which intervals resample.
        resampling_seed: what the intervals' resamples depend on.
        seconds_per_question: of answering, greedily; None for outside predictions.
        scores: the model's rows, then controls, then floors.
        comparisons: the model with its controls, paired.
        notes: what a reader of the numbers must know.
    """

    model: str
    corpus: str
    fingerprint: str
    split: str
    questions: int
    of: int
    groups: int
    level: float
    replicates: int
    resampling_seed: int
    seconds_per_question: float | None
    scores: tuple[VqaScore, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    uri: str
    task: str = "vqa"
    schema: str = SCHEMA_VERSION

    def dumps(self) -> str:
        """Return the result as JSON; a number that does not exist (NaN) becomes null."""
        return json.dumps(nulls(asdict(self)), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"

    def columns(self) -> dict[str, str]:
        """Return the headline scores that any row has, with what they are called in tables; * marks corrected ones."""
        return {name: text for name, text in COLUMNS.items() if any(name in s.metrics for s in self.scores)}

    def markdown(self) -> str:
        """Return the table as Markdown: estimates with their intervals."""
        columns = self.columns()
        lines = [
            "| " + " | ".join(("model", "answers", "seed", "failures", *columns.values())) + " |",
            "|" + "---|" * (4 + len(columns)),
        ]
        for s in self.scores:
            cells = (_cell(s.metrics.get(name)) for name in columns)
            lines.append("| " + " | ".join((s.model, s.decoding, str(s.seed), str(s.failures), *cells)) + " |")
        notes = "".join(f"\n- {note}" for note in self.notes)
        return "\n".join(lines) + f"\n\n{self.caption()}{notes}\n"

    def caption(self) -> str:
        """Return what the table is of, in a sentence."""
        part = f"{self.questions:,} questions" if self.questions == self.of else f"{self.questions:,} of {self.of:,}"
        return (
            f"{self.split} split of {self.corpus}, {part}, {self.groups:,} images; {self.level:.0%} intervals resample "
            "images; * corrected score, the others as published."
        )


def store(result: VqaResult) -> None:
    """Write the table and, last, the scores to `result.uri`; the predictions are there already."""
    storage.write_bytes(storage.join(result.uri, TABLE), result.markdown().encode())
    storage.write_bytes(storage.join(result.uri, SCORES), result.dumps().encode())


def load(uri: str) -> VqaResult:
    """Read what `store` wrote.

    Raises:
        RunError: nothing there, of another schema, or incomplete.
    """
    where = storage.join(uri, SCORES)
    if not storage.exists(where):
        raise RunError(f"{uri}: no evaluation here ({SCORES} is missing).")
    try:
        raw = json.loads(storage.read_bytes(where))
        if raw["schema"] != SCHEMA_VERSION:
            raise RunError(f"{where}: schema {raw['schema']!r}, this release reads {SCHEMA_VERSION!r}; evaluate again.")
        scores = tuple(map(_score, raw["scores"]))
        comparisons = tuple(map(read_comparison, raw["comparisons"]))
        return VqaResult(**{**raw, "notes": tuple(raw["notes"]), "scores": scores, "comparisons": comparisons})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: no evaluation to read ({error}); evaluate again.") from error


def predictions_of(uri: str) -> str:
    """Return where the predictions of the evaluation at `uri` are."""
    return storage.join(uri, PREDICTIONS)


def _cell(found: Interval | None) -> str:
    if found is None or not math.isfinite(found.estimate):
        return ""
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _score(raw: dict[str, Any]) -> VqaScore:
    types = {kind: _intervals(part) for kind, part in raw["types"].items()}
    return VqaScore(**{**raw, "metrics": _intervals(raw["metrics"]), "types": types})


def _intervals(raw: dict[str, Any]) -> dict[str, Interval]:
    return {name: Interval(**nans(value)) for name, value in raw.items()}
