"""Evaluating by questions: a model, an endpoint or a file of predictions, beside floors and controls, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medalign import storage
from medalign.data import manifest as manifests
from medalign.errors import UserError
from medalign.evaluation.result import Comparison
from medalign.evaluation.source import RECIPE, read_recipe
from medalign.evaluation.task import FOLDER
from medalign.evaluation.vqa import result as results
from medalign.evaluation.vqa.answering import answer_questions
from medalign.evaluation.vqa.compare import compare
from medalign.evaluation.vqa.predictions import (
    CANDIDATES,
    GREEDY,
    Predictions,
    check_complete,
    read_predictions,
    write_predictions,
)
from medalign.evaluation.vqa.questions import Question, read_questions
from medalign.evaluation.vqa.result import VqaResult
from medalign.evaluation.vqa.settings import VqaSettings
from medalign.evaluation.vqa.summary import CONTROLS, summarise
from medalign.language_models import Endpoint

Progress = Callable[[int, int], None]


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
    settings = settings or VqaSettings(
        split=known.split, limit=limit, level=known.level, replicates=known.replicates, seed=known.resampling_seed
    )
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
    return compare(sides[0], sides[1], questions, **settings.intervals)


def check_all(predictions: Sequence[Predictions], questions: Sequence[Question], *, where: str) -> None:
    """Check that every entry has each question it must have once, and no other."""
    for each in predictions:
        asked = [q.id for q in questions if each.decoding != CANDIDATES or q.right_choice is not None]
        check_complete(each, asked, where=where)


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
