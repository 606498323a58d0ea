"""Questions, answers and extended answers from what is known of a picture: yes or no, count, which, describe.

An extended answer says the answer and adds what is true of every picture with that answer; it states nothing that
answers another question on the same picture. `leaks` looks for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pictures import CHEST, SCAN, SMEAR, Picture, share_of

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
ORGANS = ("head", "chest", "abdomen")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One question on a picture.

    Attributes:
        id: unique.
        type: what is asked, whatever the words: types count alike in the accuracy.
        kind: "yes or no", "count", "which" or "describe".
        question: in lower case, words and signs apart.
        answer: in one to four words.
        extended: the answer with its context.
        subject: words that no extended answer to another question on the picture may have.
    """

    id: str
    type: str
    kind: str
    question: str
    answer: str
    extended: str
    subject: tuple[str, ...]


def statements_of(picture: Picture) -> list[Statement]:
    """Return the questions on a picture: three or four on a smear, three on a chest, one on a scan."""
    return {SMEAR: _of_smear, CHEST: _of_chest, SCAN: _of_scan}[picture.kind](picture)


def leaks(statements: list[Statement]) -> list[str]:
    """Return where an extended answer has a word of another question's subject, or another one's answer.

    A yes or no states a fact by its subject alone, so "yes" and "no" themselves are not looked for.
    """
    found = []
    for own in statements:
        words = f" {' '.join(re.findall('[a-z]+', own.extended))} "
        for other in statements:
            looked = (*other.subject, *(() if other.answer in ("yes", "no") else (other.answer,)))
            found += [
                f"{own.id} states {what!r} of {other.id}"
                for what in looked
                if other.id != own.id and f" {what} " in words
            ]
    return found


def _of_smear(picture: Picture) -> list[Statement]:
    platelets, red = int(picture.facts["platelets"]), int(picture.facts["red cells"])
    many = "yes" if red > 11 else "no"
    crowd = {
        "yes": "yes , the film is crowded with red cells , pale discs that lie close together",
        "no": "no , the film is thin and its red cells , pale discs , lie apart",
    }
    number = NUMBERS[platelets]
    small = (
        "platelet , a small purple fragment that helps" if platelets == 1 else "platelets , small fragments that help"
    )
    found = [
        _statement(
            picture,
            "count",
            "how many platelets are there ?",
            number,
            f"{number} {small} blood to clot",
            ("platelet", "platelets"),
        ),
        _statement(
            picture,
            "yes or no",
            "are there more than eleven red cells ?",
            many,
            crowd[many],
            ("red", "crowded", "thin"),
        ),
        _statement(
            picture,
            "describe",
            "what does the picture show ?",
            "a blood smear",
            "a blood smear , stained and seen under a microscope",
            ("blood smear",),
        ),
    ]
    if "half" in picture.facts:
        half = str(picture.facts["half"])
        side = {
            "left": "the left half holds the large cell with a dark nucleus , a defender against infection",
            "right": "the right half holds the large cell with a dark nucleus , a defender against infection",
        }
        found.append(
            _statement(
                picture,
                "which",
                "which half holds the white cell , left or right ?",
                half,
                side[half],
                ("left", "right", "white"),
            )
        )
    return found


def _of_chest(picture: Picture) -> list[Statement]:
    ill = "yes" if picture.facts["pneumonia"] == "pneumonia" else "no"
    lungs = {
        "yes": "yes , cloudy patches of infection lie over the lungs",
        "no": "no , the lungs are dark and clear , as air is",
    }
    age = str(picture.facts["age"])
    body = {
        "child": "a child , with short ribs and a body that still grows",
        "adult": "an adult , with long ribs and a body that is grown",
    }
    return [
        _statement(
            picture,
            "yes or no",
            "does the image show pneumonia ?",
            ill,
            lungs[ill],
            ("pneumonia", "infection", "clear", "cloudy"),
        ),
        _statement(
            picture,
            "which",
            "which patient is this , a child or an adult ?",
            age,
            body[age],
            ("child", "adult", "ribs"),
        ),
        _statement(
            picture,
            "describe",
            "what does the picture show ?",
            "a chest x ray",
            "a chest x ray , taken from the front with the arms aside",
            ("x ray",),
        ),
    ]


def _of_scan(picture: Picture) -> list[Statement]:
    organ = str(picture.facts["organ"])
    inside = {
        "head": "the head , where the skull surrounds the brain",
        "chest": "the chest , where the ribs surround heart and lungs",
        "abdomen": "the abdomen , where liver and bowel lie below the ribs",
    }
    form = int(share_of(f"form {picture.name}") * 4)
    if form == 0:
        asked = ORGANS[int(share_of(f"asked {picture.name}") * 3)]
        said = "yes" if asked == organ else "no"
        question = f"is this a scan of the {asked} ?"
        return [_statement(picture, "yes or no", question, said, f"{said} , it is {inside[organ]}", (organ,))]
    if form == 1:
        answer = f"a scan of the {organ}"
        shown = f"a scan of {inside[organ]}"
        return [_statement(picture, "describe", "what does the picture show ?", answer, shown, (organ,))]
    question = "which region does the scan show ?"
    return [_statement(picture, "which", question, organ, inside[organ], (organ,))]


def _statement(
    picture: Picture, kind: str, question: str, answer: str, extended: str, subject: tuple[str, ...]
) -> Statement:
    return Statement(
        id=f"{picture.name}/{kind}",
        type="describe" if kind == "describe" else f"{picture.kind}, {kind}",
        kind=kind,
        question=question,
        answer=answer,
        extended=extended,
        subject=subject,
    )
