"""Format `vqa-rad`: the JSON file of VQA-RAD; `phrase_type` says which questions are its test split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medalign.data.formats import questions, records
from medalign.data.formats.questions import Question, read_item, transforms
from medalign.data.items import Item
from medalign.errors import CorpusError

__all__ = ["LICENCE", "OPTIONS", "list_items", "read_item", "transforms"]

OPTIONS: dict[str, Any] = {
    **questions.OPTIONS,
    "images": "images",  # the folder of the pictures, beside the file
}
LICENCE = "CC0 1.0"
SPLITS = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the questions. In the standard split nearly every test image is a train image too.

    Raises:
        CorpusError: not VQA-RAD's file.
    """
    pictures = records.Pictures(records.folder_of(source, options["images"]))
    found = (_question(number, record) for number, record in enumerate(records.read(source)))
    return questions.items(found, pictures, options)


def _question(number: int, record: records.Record) -> Question:
    phrase = str(record.get("phrase_type")).strip()
    if phrase not in SPLITS or "qid" not in record:
        raise CorpusError(f"record {number}: no qid, or a phrase_type other than {', '.join(SPLITS)}: not VQA-RAD.")
    return Question(
        record=number,
        key=str(record["qid"]).strip(),
        image=record.get("image_name"),
        question=record.get("question"),
        answer=record.get("answer"),
        answer_type=str(record.get("answer_type", "")).strip().upper(),
        question_type=str(record.get("question_type", "")).strip().upper(),
        split=SPLITS[phrase],
    )
