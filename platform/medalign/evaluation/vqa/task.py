"""Evaluating by questions: a model, an endpoint or a file of predictions, beside floors and controls, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medalign import storage
from medalign.data import manifest as manifests
from medalign.errors import UserError
from medalign.evaluation.result import Comparison
from medalign.evaluation.source import RECIPE, read_recipe
from medalign.evaluation.task import FOLDER
from medalign.evaluation.vqa import result as results
from medalign.evaluation.vqa.answering import answer_questions
from medalign.evaluation.vqa.compare import compare
from medalign.evaluation.vqa.floors import candidates_of, predict_floors, read_train
from medalign.evaluation.vqa.predictions import (
    BLANK,
    CANDIDATES,
    GREEDY,
    SHUFFLED,
    Predictions,
    check_complete,
    read_predictions,
    write_predictions,
)
from medalign.evaluation.vqa.questions import Question, read_questions
from medalign.evaluation.vqa.result import VqaResult
from medalign.evaluation.vqa.scoring import score
from medalign.language_models import Endpoint

Progress = Callable[[int, int], None]
CONTROLS = (BLANK, SHUFFLED)


@dataclass(frozen=True, kw_only=True)
class VqaSettings:
    """How questions are asked and scored.

    Attributes:
        split: which split of the corpus.
        limit: ask only so many questions, the first ones of the corpus's order; all if None.
        max_new_tokens: the most tokens of an answer.
        batch: questions that are answered at once.
        workers: actors on Ray; 0 answers in this process.
        controls: ask about blank and shuffled images too.
        candidates: choose among the options of closed questions by likelihood too.
        replicates: resamples of an interval.
        level: its nominal coverage.
        seed: of the resamples and the shuffled images.
    """

    split: str = "test"
    limit: int | None = None
    max_new_tokens: int = 64
    batch: int = 8
    workers: int = 0
    controls: bool = False
    candidates: bool = False
    replicates: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch", "replicates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit must be >= 1, got {self.limit}.")
        if self.workers < 0:
            raise UserError(f"workers must be >= 0, got {self.workers}.")


def evaluate_model(
    source: str | Endpoint,
    *,
    corpus: str,
    out: str = "",
    settings: VqaSettings | None = None,
    progress: Progress | None = None,
) -> VqaResult:
    """Ask a model a split's questions, store its predictions, and score them beside floors and controls.

    Args:
        source: a model directory, the URI of a run with an exported model, or an endpoint.
        corpus: the corpus's URI.
        out: where predictions and scores go; `<source>/evaluations/<corpus>-vqa` if not given.
        settings: of the questions, the answers and the intervals.
        progress: called with the number of questions done and of all.

    Raises:
        CorpusError: no corpus, no such split, or no questions.
        UserError: the model cannot be opened, or the corpus may not leave (`external_ok`).
    """
    settings = settings or VqaSettings()
    manifest = manifests.read(corpus)
    if isinstance(source, Endpoint):
        if not manifest.external_ok:
            raise UserError(
                f"{corpus}: may not be sent to {source.url}; if its licence and your ethics approval allow it, prepare"
                " it with --external-ok."
            )
        if not out:
            raise UserError("an endpoint has no folder for its predictions; give one with --out.")
    is_run = not isinstance(source, Endpoint) and storage.exists(storage.join(source, RECIPE))
    model_seed = int(read_recipe(str(source))["run"]["seed"]) if is_run else 0
    name = source.model if isinstance(source, Endpoint) else source.rstrip("/").rpartition("/")[2]
    questions = read_questions(corpus, settings.split, limit=settings.limit)
    decodings = [GREEDY, *([CANDIDATES] if settings.candidates else []), *(CONTROLS if settings.controls else ())]
    predictions, seconds = answer_questions(
        source,
        corpus,
        settings.split,
        questions,
        name=name,
        model_seed=model_seed,
        decodings=decodings,
        max_new_tokens=settings.max_new_tokens,
        batch=settings.batch,
        workers=settings.workers,
        seed=settings.seed,
        progress=progress,
    )
    place = out or storage.join(storage.absolute(str(source)), FOLDER, f"{manifest.name}-vqa")
    return _finish(predictions, questions, corpus, model=name, seconds=seconds, out=place, settings=settings)


def evaluate_predictions(
    files: Sequence[str], *, corpus: str, out: str = "", settings: VqaSettings | None = None
) -> VqaResult:
    """Score the stored predictions of any systems exactly as a model's own, in one table.

    Args:
        files: Parquet or JSONL: see `read_predictions`.
        corpus: the corpus's URI.
        out: where scores go; beside the first file, `<file>-<corpus>-vqa`, if not given.
        settings: the split, the limit and the intervals.

    Raises:
        UserError: ids that are missing or surplus, a file that cannot be read, or one model's answers twice.
        CorpusError: no corpus, no such split, or no questions.
    """
    settings = settings or VqaSettings()
    questions = read_questions(corpus, settings.split, limit=settings.limit)
    predictions = _read_all(files, questions)
    stem = storage.absolute(files[0]).rpartition(".")[0]
    place = out or f"{stem}-{manifests.read(corpus).name}-vqa"
    model = ", ".join(map(storage.absolute, files))
    return _finish(predictions, questions, corpus, model=model, seconds=None, out=place, settings=settings)


def rescore(uri: str, *, settings: VqaSettings | None = None) -> VqaResult:
    """Return what follows today from an evaluation's stored predictions; nothing is asked and nothing written.

    Raises:
        RunError: no evaluation there.
        UserError: the predictions are no longer those of the corpus's questions.
    """
    known = results.load(uri)
    limit = known.questions if known.questions < known.of else None
    settings = settings or VqaSettings(split=known.split, limit=limit, level=known.level, replicates=known.replicates)
    questions = read_questions(known.corpus, settings.split, limit=settings.limit)
    predictions = read_predictions(results.predictions_of(uri))
    check_all(predictions, questions, where=uri)
    return summarise(
        predictions,
        questions,
        known.corpus,
        model=known.model,
        seconds=known.seconds_per_question,
        out=uri,
        settings=settings,
    )


def compare_files(
    first: Sequence[str], second: Sequence[str], *, corpus: str, settings: VqaSettings | None = None
) -> tuple[Comparison, ...]:
    """Compare the greedy answers of two sides, each of one file or of one per seed, paired over seeds and images.

    Raises:
        UserError: files that are not complete, a seed that is twice on a side, or no seed in common.
    """
    settings = settings or VqaSettings()
    questions = read_questions(corpus, settings.split, limit=settings.limit)
    sides = [[each for each in _read_all(side, questions) if each.decoding == GREEDY] for side in (first, second)]
    options: dict[str, Any] = {"replicates": settings.replicates, "level": settings.level, "seed": settings.seed}
    return compare(sides[0], sides[1], questions, **options)


def check_all(predictions: Sequence[Predictions], questions: Sequence[Question], *, where: str) -> None:
    """Check that every entry has each question it must have once, and no other."""
    for each in predictions:
        asked = [q.id for q in questions if each.decoding != CANDIDATES or q.right_choice is not None]
        check_complete(each, asked, where=where)


def summarise(
    predictions: Sequence[Predictions],
    questions: Sequence[Question],
    corpus: str,
    *,
    model: str,
    seconds: float | None,
    out: str,
    settings: VqaSettings,
) -> VqaResult:
    """Return the result that follows from predictions."""
    manifest, train = manifests.read(corpus), read_train(corpus)
    options: dict[str, Any] = {"replicates": settings.replicates, "level": settings.level, "seed": settings.seed}
    candidates = candidates_of(train)
    rows = [*predictions, *predict_floors(train, questions)]
    return VqaResult(
        model=model,
        corpus=storage.absolute(corpus),
        fingerprint=manifest.fingerprint,
        split=settings.split,
        questions=len(questions),
        of=manifest.split(settings.split).rows,
        groups=len(np.unique([question.group for question in questions])),
        level=settings.level,
        replicates=settings.replicates,
        seconds_per_question=seconds,
        scores=tuple(score(each, questions, candidates=candidates, **options) for each in rows),
        comparisons=_with_controls(predictions, questions, options),
        notes=tuple(_notes(manifest, train, predictions, settings)),
        uri=out,
    )


def _read_all(files: Sequence[str], questions: Sequence[Question]) -> list[Predictions]:
    found: dict[tuple[str, int, str], Predictions] = {}
    for file in files:
        entries = read_predictions(file)
        check_all(entries, questions, where=file)
        for each in entries:
            key = (each.model, each.seed, each.decoding)
            if key in found:
                raise UserError(f"{file}: the answers of model {each.model!r}, seed {each.seed}, are there twice.")
            found[key] = each
    return list(found.values())


def _finish(
    predictions: Sequence[Predictions],
    questions: Sequence[Question],
    corpus: str,
    *,
    model: str,
    seconds: float | None,
    out: str,
    settings: VqaSettings,
) -> VqaResult:
    write_predictions(results.predictions_of(out), predictions)
    found = summarise(predictions, questions, corpus, model=model, seconds=seconds, out=out, settings=settings)
    results.store(found)
    return found


def _with_controls(
    predictions: Sequence[Predictions], questions: Sequence[Question], options: dict
) -> tuple[Comparison, ...]:
    """Return the model minus each of its controls: without a gap the set does not test vision."""
    found: list[Comparison] = []
    for control in CONTROLS:
        blind = [each for each in predictions if each.decoding == control]
        for model in dict.fromkeys(each.model for each in blind):
            greedy = [each for each in predictions if (each.model, each.decoding) == (model, GREEDY)]
            if greedy:
                found += compare(greedy, [each for each in blind if each.model == model], questions, **options)
    return tuple(found)


def _notes(
    manifest: manifests.Manifest,
    train: Sequence[Question],
    predictions: Sequence[Predictions],
    settings: VqaSettings,
) -> list[str]:
    notes = []
    for parts, count in manifest.shared_groups.items():
        if settings.split in parts.split(" and "):
            notes.append(f"{parts} share {count:,} images: this split does not measure unseen images.")
    if not train:
        notes.append("The corpus has no train split: there are no floors and no candidates.")
    for each in predictions:
        if each.failures:
            total = len(each.texts)
            notes.append(f"{each.model} ({each.decoding}) has no answer to {each.failures:,} of {total:,}: wrong.")
    return notes
