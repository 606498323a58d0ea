"""Questions: what every VQA reader does with a question once it knows its set's keys. No format of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from medalign import storage
from medalign.data import dialogue
from medalign.data.formats.records import Pictures
from medalign.data.items import Content, Item
from medalign.errors import CorpusError
from medalign_core.metrics.answers import normalise_answer

OPTIONS: dict[str, Any] = {
    "split": "standard",  # as published; or `grouped`: drawn anew by image, a question of an image only once
    "state_options": True,  # write the options of a closed question behind it
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a set, as published.

    Attributes:
        record: its number in its file.
        key: unique in the set.
        image: the picture's name below its folder, which is the group too.
        question, answer: any text or number.
        answer_type: OPEN or CLOSED; "" where the set does not say.
        question_type: as the set has it.
        choices: the options that the set states.
        split: `train`, `val` or `test`, None where the set has none.
    """

    record: int
    key: str
    image: object
    question: object
    answer: object
    answer_type: str = ""
    question_type: str = ""
    choices: tuple[str, ...] = ()
    split: str | None = None


def items(questions: Iterable[Question], pictures: Pictures, options: dict[str, Any]) -> Iterator[Item]:
    """Yield an item of each question.

    A closed question whose answer is yes or no has these choices; what other choices it had is known only where the
    set states them.

    Raises:
        CorpusError: an unknown `split`, or a record whose question or answer is neither text nor a number.
    """
    if options["split"] not in ("standard", "grouped"):
        raise CorpusError(f"split must be standard or grouped, got {options['split']!r}.")
    is_grouped = options["split"] == "grouped"
    seen: set[tuple[str, str]] = set()
    for each in questions:
        question, answer = _text(each.question, each), _text(each.answer, each)
        place = (str(each.image), normalise_answer(question))
        if is_grouped and place in seen:
            continue
        seen.add(place)
        path, size = pictures.place(each.image, record=each.record)
        yield Item(
            key=each.key,
            path=path,
            size=size,
            group=str(each.image),
            split=None if is_grouped else each.split,
            where={"record": each.record},
            words=_words(each, question, answer, state_options=options["state_options"]),
        )


def read_item(item: Item, options: dict[str, Any]) -> Content:
    """Return the file as it is."""
    return Content(image=storage.read_bytes(item.path))


def transforms(options: dict[str, Any]) -> tuple[str, ...]:
    """What is done to the words and the splits."""
    stated = "; the options of a closed question, where known, stand behind it" if options["state_options"] else ""
    again = " drawn anew by image, repeated questions of an image dropped" if options["split"] == "grouped" else ""
    return (f"blanks at the ends of texts removed; numbers as text{stated}", f"splits{again or ' as published'}")


def _words(each: Question, question: str, answer: str, *, state_options: bool) -> dict[str, Any]:
    choices = each.choices
    if not choices and each.answer_type == "CLOSED" and answer.lower() in ("yes", "no"):
        choices = dialogue.YES_NO
    said = {
        "question_id": each.key,
        "answer_type": each.answer_type,
        "question_type": each.question_type,
        "choices": list(choices),
    }
    return {
        "conversations": dialogue.ask(question, answer, choices=choices if state_options else ()),
        "question": question,
        "answer": answer,
        **{name: value for name, value in said.items() if value},
    }


def _text(value: object, each: Question) -> str:
    try:
        return dialogue.text(value)
    except dialogue.DialogueReject as error:
        raise CorpusError(f"record {each.record}: {error}; every question needs one and an answer.") from error
