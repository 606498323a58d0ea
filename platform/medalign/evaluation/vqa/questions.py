"""The questions of a corpus's split, as they are asked and scored; a corpus of classes becomes one of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from medalign.data import dialogue
from medalign.data import manifest as manifests
from medalign.data.manifest import Manifest
from medalign.data.reader import read_rows
from medalign.errors import CorpusError
from medalign_core.metrics.answers import normalise_answer
from medalign_core.metrics.vqa import CLOSED, OPEN
from medalign_core.metrics.vqa_floors import Asked

CLASS_QUESTION = "What does the image show?"
_WORDS = ("question_id", "question", "answer", "answer_type", "question_type", "choices", "conversations")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a split.

    Attributes:
        row: its row's number within the split.
        id: the source's own id: predictions are matched by it.
        question: without the image's mark and the options.
        prompt: what a model is asked: the question, the options where the corpus states them, the image's mark.
        answer: the right one.
        answer_type: OPEN or CLOSED.
        question_type: as the source has it, "" where it has none.
        choices: the options of a closed question; none where they are not known.
        group: the image, patient or photograph: what is resampled.
    """

    row: int
    id: str
    question: str
    prompt: str
    answer: str
    answer_type: str
    question_type: str = ""
    choices: tuple[str, ...] = ()
    group: str = ""

    @property
    def right_choice(self) -> str | None:
        """The option that is the right answer, in the spelling of the options; None if there is none."""
        right = normalise_answer(self.answer)
        return next((choice for choice in self.choices if normalise_answer(choice) == right), None)

    def asked(self) -> Asked:
        """Return what floors see: the answer's and the question's type together are the type."""
        kind = f"{self.answer_type} {self.question_type}".strip()
        return Asked(question=self.question, answer=self.answer, question_type=kind, image=self.group)


def read_questions(corpus: str, split: str, *, limit: int | None = None) -> tuple[Question, ...]:
    """Return a split's questions in the corpus's order, which is a hash's and so well mixed.

    Of a corpus of labelled images each image becomes a closed question whose options are the corpus's classes
    (zero-shot classification); its id is the row's. Where a set does not say whether a question is open, it is closed
    if it has options or its answer is yes or no.

    Args:
        corpus: its URI.
        split: which split.
        limit: only so many, the first ones.

    Raises:
        CorpusError: no such corpus or split, conversations without questions, no labels, or ids that occur twice.
    """
    manifest = manifests.read(corpus)
    if manifest.task == "chat":
        raise CorpusError(f"{corpus}: a corpus of conversations; answers are scored on one of questions (format vqa-rad"
                          ", slake, path-vqa or multiple-choice).")  # fmt: skip
    columns = ("id", "group", "label") if manifest.task == "images" else ("id", "group", *_WORDS)
    found: list[Question] = []
    number = 0
    for batch in read_rows(corpus, split, columns):
        for row in batch.to_pylist():
            if (question := _question(row, number, manifest)) is not None:
                found.append(question)
            number += 1
    if not found:
        raise CorpusError(f"{corpus}: no image of the {split!r} split has a label or a question.")
    _check_ids(found, corpus, split)
    return tuple(found[:limit])


def asked_of(questions: Sequence[Question]) -> list[Asked]:
    """Return the questions as floors see them."""
    return [question.asked() for question in questions]


def prompts_of(rows: pa.Table, classes: Sequence[str]) -> list[str]:
    """Return what a model is asked of each row of a table that has `conversations`, or is one of labelled images."""
    if "conversations" not in rows.column_names:
        return [_class_prompt(classes)] * len(rows)
    return [turns[0]["value"] for turns in rows["conversations"].to_pylist()]


def _question(row: dict[str, Any], number: int, manifest: Manifest) -> Question | None:
    if manifest.task == "images":
        if row["label"] is None:
            return None
        return Question(
            row=number,
            id=row["id"],
            question=CLASS_QUESTION,
            prompt=_class_prompt(manifest.classes),
            answer=row["label"],
            answer_type=CLOSED,
            choices=manifest.classes,
            group=row["group"],
        )
    choices = tuple(row["choices"] or ())
    is_closed = bool(choices) or normalise_answer(row["answer"]) in ("yes", "no")
    return Question(
        row=number,
        id=row["question_id"] or row["id"],
        question=row["question"],
        prompt=row["conversations"][0]["value"],
        answer=row["answer"],
        answer_type=row["answer_type"] or (CLOSED if is_closed else OPEN),
        question_type=row["question_type"] or "",
        choices=choices,
        group=row["group"],
    )


def _class_prompt(classes: Sequence[str]) -> str:
    return dialogue.ask(CLASS_QUESTION, "", choices=tuple(classes))[0]["value"]


def _check_ids(questions: Sequence[Question], corpus: str, split: str) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise CorpusError(f"{corpus}: the question id {question.id!r} occurs twice in {split!r}; prepare it again.")
        seen.add(question.id)
