"""From predictions to the result: rows of models, controls and floors, the gaps to the controls, what to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medalign import storage
from medalign.data import manifest as manifests
from medalign.evaluation.result import Comparison
from medalign.evaluation.vqa.compare import compare
from medalign.evaluation.vqa.floors import candidates_of, predict_floors, read_train
from medalign.evaluation.vqa.predictions import BLANK, GREEDY, SHUFFLED, Predictions
from medalign.evaluation.vqa.questions import Question
from medalign.evaluation.vqa.result import VqaResult
from medalign.evaluation.vqa.scoring import score
from medalign.evaluation.vqa.settings import VqaSettings

CONTROLS = (BLANK, SHUFFLED)


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
        resampling_seed=settings.seed,
        seconds_per_question=seconds,
        scores=tuple(score(each, questions, candidates=candidates, **settings.intervals) for each in rows),
        comparisons=_with_controls(predictions, questions, settings.intervals),
        notes=tuple(_notes(manifest, train, predictions, settings)),
        uri=out,
    )


def _with_controls(
    predictions: Sequence[Predictions], questions: Sequence[Question], options: dict[str, Any]
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
