"""Format `multiple-choice`: questions with options, as OmniMedVQA publishes them; one JSON file or a folder of them."""

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
    "images": "",  # the folder of the pictures, beside the file; where the file lies if empty
    "split_name": "test",  # of all questions: such sets are for zero-shot evaluation
}
LICENCE = "as of the set's parts"
LETTERS = "ABCDEFGH"


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the questions. The label's type is the part (`dataset`) it comes from.

    Raises:
        CorpusError: no such file, a record with fewer than two options, or whose answer is none of them.
    """
    is_file = source.lower().endswith((".json", ".jsonl"))
    files = [source] if is_file else [p for p in sorted(storage.list_files(source)) if p.lower().endswith(".json")]
    beside = source.rpartition("/")[0] or "." if is_file else source.rstrip("/")
    pictures = records.Pictures(storage.join(beside, options["images"]) if options["images"] else beside)
    found = (q for file in files for q in _questions(file, options["split_name"]))
    return questions.items(found, pictures, options)


def _questions(file: str, split: str) -> Iterator[Question]:
    for number, record in enumerate(records.read(file)):
        named = (record.get(f"option_{letter}") for letter in LETTERS)
        choices = tuple(str(choice).strip() for choice in named if choice is not None)
        answer = str(record.get("gt_answer", "")).strip()
        if len(choices) < 2 or answer not in choices:
            raise CorpusError(f"{file}: record {number} has fewer than two options, or an answer that is none of them.")
        part = str(record.get("dataset", "")).strip()
        yield Question(
            record=number,
            key=str(record.get("question_id") or f"{part}/{number}"),
            image=record.get("image_path"),
            question=record.get("question"),
            answer=answer,
            answer_type="CLOSED",
            question_type=part,
            choices=choices,
            split=split,
        )
