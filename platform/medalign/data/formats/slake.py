"""Format `slake`: the folder of SLAKE, with train, validation and test JSON files and `imgs/`."""

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
    "images": "imgs",  # the folder of the pictures
    "language": "en",  # `q_lang` of the questions to keep: en, zh, or all
}
LICENCE = "CC BY 4.0"
FILES = {"train": ("train.json",), "val": ("validation.json", "validate.json", "val.json"), "test": ("test.json",)}


def list_items(source: str, options: dict[str, Any]) -> Iterator[Item]:
    """List the questions of one language. Closed answers are not only yes and no.

    Raises:
        CorpusError: none of SLAKE's files, or a record without `qid`.
    """
    return questions.items(_questions(source, options), _pictures(source, options), options)


def _pictures(source: str, options: dict[str, Any]) -> records.Pictures:
    return records.Pictures(f"{source.rstrip('/')}/{options['images']}")


def _questions(source: str, options: dict[str, Any]) -> Iterator[Question]:
    files = {split: records.first_of(source, names) for split, names in FILES.items()}
    if not any(files.values()):
        raise CorpusError(f"{source}: has none of SLAKE's files ({', '.join(n for f in FILES.values() for n in f)}).")
    for split, file in files.items():
        for number, record in enumerate(records.read(file) if file else ()):
            if options["language"] not in ("all", record.get("q_lang")):
                continue
            if "qid" not in record:
                raise CorpusError(f"{file}: record {number} has no qid: not SLAKE.")
            yield Question(
                record=number,
                key=str(record["qid"]),
                image=record.get("img_name"),
                question=record.get("question"),
                answer=record.get("answer"),
                answer_type=str(record.get("answer_type", "")).strip().upper(),
                question_type=str(record.get("content_type", "")).strip(),
                split=split,
            )
