"""Format `path-vqa`: a folder of PathVQA's records as JSON, {train,val,test}_vqa.json, and pictures by split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medalign import storage
from medalign.data.formats import questions, records
from medalign.data.formats.questions import Question, read_item, transforms
from medalign.data.items import Item
from medalign.errors import CorpusError

__all__ = ["LICENCE", "OPTIONS", "list_items", "read_item", "transforms"]

OPTIONS: dict[str, Any] = {
    **questions.OPTIONS,
    "images": "images",  # the folder that holds train/, val/ and test/ with the pictures
}
LICENCE = "MIT (questions); pictures as of their textbooks"
SPLITS = ("train", "val", "test")


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the questions. The published files are pickles, which are not read: save their records as JSON.

    A record has `img_id`, `sent` (the question), `answer_type` and `label`, an object whose first key is the answer.

    Raises:
        CorpusError: none of the files, or a record without an answer.
    """
    return questions.items(_questions(source), records.Pictures(f"{source.rstrip('/')}/{options['images']}"), options)


def _questions(source: str) -> Iterator[Question]:
    files = {split: records.first_of(source, (f"{split}_vqa.json", f"{split}_vqa.jsonl")) for split in SPLITS}
    if not any(files.values()):
        pickles = [path for path in storage.list_files(source) if path.endswith((".pkl", ".pickle"))]
        if pickles:
            records.read(min(pickles))  # says why not
        raise CorpusError(f"{source}: has none of {', '.join(f'{split}_vqa.json' for split in SPLITS)}.")
    for split, file in files.items():
        for number, record in enumerate(records.read(file) if file else ()):
            yield _question(number, record, split)


def _question(number: int, record: records.Record, split: str) -> Question:
    answers, kind = record.get("label"), str(record.get("answer_type", "")).strip().lower()
    if not isinstance(answers, dict) or not answers or "img_id" not in record:
        raise CorpusError(f"{split}: record {number} has no img_id, or no answer in `label`: not PathVQA.")
    return Question(
        record=number,
        key=f"{split}/{record.get('question_id', number)}",  # img_id is not unique
        image=f"{split}/{record['img_id']}.jpg",
        question=record.get("sent"),
        answer=next(iter(answers)),
        answer_type="CLOSED" if kind == "yes/no" else "OPEN",
        question_type=kind,
        split=split,
    )
