"""Floors of a split: what answers without an image score, as predictions like any other."""

from __future__ import annotations

from collections.abc import Sequence

from medalign.data import manifest as manifests
from medalign.evaluation.vqa.predictions import Predictions
from medalign.evaluation.vqa.questions import Question, asked_of, read_questions
from medalign_core.metrics import vqa_floors
from medalign_core.metrics.vqa import OPEN

FLOORS = {
    "majority per type": vqa_floors.majority_of_type,
    "question only": vqa_floors.question_only,
    "nearest question": vqa_floors.nearest_question,
    "nearest question of the image": vqa_floors.nearest_question_of_image,
}
DECODING = "floor"


def read_train(corpus: str) -> tuple[Question, ...]:
    """Return the questions of the train split, from which floors and candidates are; none where there is no such."""
    return read_questions(corpus, "train") if "train" in manifests.read(corpus).splits else ()


def predict_floors(train: Sequence[Question], questions: Sequence[Question]) -> list[Predictions]:
    """Return what each floor says of the questions; none without training questions.

    The nearest question of the image is there only where a split shares images with training: what it scores beyond
    the nearest question is what such a split gives away.
    """
    if not train:
        return []
    known, asked = asked_of(train), asked_of(questions)
    shares = bool({q.group for q in train} & {q.group for q in questions})
    ids = [question.id for question in questions]
    return [
        Predictions(model=name, decoding=DECODING, texts=dict(zip(ids, floor(known, asked), strict=True)))
        for name, floor in FLOORS.items()
        if shares or floor is not vqa_floors.nearest_question_of_image
    ]


def candidates_of(train: Sequence[Question]) -> list[str] | None:
    """Return the open answers of the train split, that `open_candidates` chooses from; None if there are none."""
    return [question.answer for question in train if question.answer_type == OPEN] or None
