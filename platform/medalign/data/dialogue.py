"""The words of a chat or VQA row: columns, turns brought to one form, questions as conversations. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

HUMAN, ASSISTANT = "human", "gpt"  # the values of `from`, as LLaVA writes them
IMAGE = "<image>"
MAX_TURNS = 64
MAX_CHARACTERS = 65536  # of one turn
YES_NO = ("Yes", "No")

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
COLUMNS = pa.schema(
    [
        pa.field("conversations", pa.list_(TURN)),  # human and gpt in turn; the image mark is in the first
        pa.field("conversations_long", pa.list_(TURN)),  # the same questions, extended answers
        pa.field("question_id", pa.string()),  # the source's own: outside predictions are matched by it
        pa.field("question", pa.string()),  # without mark and options
        pa.field("answer", pa.string()),
        pa.field("answer_type", pa.string()),  # OPEN or CLOSED
        pa.field("question_type", pa.string()),
        pa.field("choices", pa.list_(pa.string())),
    ]
)
_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": ASSISTANT, "assistant": ASSISTANT}

Turns = list[dict[str, str]]


class DialogueReject(ValueError):
    """Words that do not become a row. The message is the reason; it quotes nothing of them."""


def turns(raw: object) -> Turns:
    """Return a conversation in the one form: human and gpt in turn, text only, one image mark in the first turn.

    Values that are numbers become text; blanks at either end go; a mark that is missing is put first.

    Raises:
        DialogueReject: not a list of turns, other roles or another order, no text, or more than one image mark.
    """
    if not isinstance(raw, list) or not raw or len(raw) > MAX_TURNS:
        raise DialogueReject(f"a conversation must be a list of 2 to {MAX_TURNS} turns")
    found = [_turn(each) for each in raw]
    if len(found) % 2 or any(t["from"] != (HUMAN, ASSISTANT)[n % 2] for n, t in enumerate(found)):
        raise DialogueReject("a conversation must be human and gpt in turn, and end with gpt")
    marks = [t["value"].count(IMAGE) for t in found]
    if sum(marks) > 1 or any(marks[1:]):
        raise DialogueReject(f"a conversation must have one {IMAGE}, in its first turn")
    if not marks[0]:
        found[0]["value"] = f"{IMAGE}\n{found[0]['value']}"
    return found


def ask(question: str, answer: str, *, choices: tuple[str, ...] = ()) -> Turns:
    """Return a question and its answer as a conversation: the question, the options if there are any, the image mark.

    The wording is LoGra-Med's: `QUESTION (Answer with either "Yes" or "No").`, a new line, `<image>`.
    """
    quoted = " or ".join(f'"{choice}"' for choice in choices)
    options = f" (Answer with either {quoted})." if choices else ""
    return [
        {"from": HUMAN, "value": f"{question}{options}\n{IMAGE}"},
        {"from": ASSISTANT, "value": answer},
    ]


def text(value: object) -> str:
    """Return a value of a source as text without blanks at its ends: sets hold numbers, too.

    Raises:
        DialogueReject: neither text nor a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DialogueReject(f"a {type(value).__name__} where text belongs")
    return str(value).strip()


def is_silent(words: Mapping[str, Any]) -> bool:
    """Tell whether no turn of the assistant says anything: every label of such a sample would be masked."""
    said = [turn.get("value") for turn in words.get("conversations") or () if _role(turn) == ASSISTANT]
    return not any(str(value).strip() for value in said if value is not None)


def columns(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of COLUMNS of one row; null where nothing was said.

    Raises:
        DialogueReject: words that do not fit: see `turns`; an extended conversation with other questions.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS.names)
    row["conversations"] = turns(words.get("conversations"))
    if words.get("conversations_long") is not None:
        row["conversations_long"] = _extended(words["conversations_long"], row["conversations"])
    for name in ("question_id", "question", "answer", "answer_type", "question_type"):
        if words.get(name) is not None:
            row[name] = _checked(text(words[name]))
    if words.get("choices"):
        row["choices"] = [_checked(text(choice)) for choice in words["choices"]]
    return row


def _extended(raw: object, short: Turns) -> Turns:
    """Return the extended conversation: it has the same number of turns; its questions are those of the short one."""
    long = turns(raw)
    if len(long) != len(short):
        raise DialogueReject("conversations_long has another number of turns than conversations")
    return [s if s["from"] == HUMAN else each for s, each in zip(short, long, strict=True)]


def _turn(raw: object) -> dict[str, str]:
    role = _role(raw)
    if not role or not isinstance(raw, Mapping):
        raise DialogueReject("a turn must be from human or gpt")
    return {"from": role, "value": _checked(text(raw.get("value")))}


def _role(raw: object) -> str:
    return _ROLES.get(str(raw.get("from")).lower(), "") if isinstance(raw, Mapping) else ""


def _checked(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DialogueReject("text that is not valid") from None
    if len(value) > MAX_CHARACTERS:
        raise DialogueReject(f"text longer than {MAX_CHARACTERS} characters")
    return value
