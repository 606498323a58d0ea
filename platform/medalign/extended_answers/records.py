"""What a model has written so far: a file for each block of rows, whole or absent, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from medalign import storage
from medalign.errors import CorpusError, NotFoundError

STORED = 4000  # characters of a useless answer


@dataclass(frozen=True, kw_only=True)
class Record:
    """One answer of one row.

    Attributes:
        id: of the row.
        turn: of its conversation, counted among the assistant's from 0.
        source_sha256: of question and answer as the corpus has them.
        prompt_sha256: of what the model was told beside them.
        model: its name at the endpoint.
        date: of the answer, as YYYY-MM-DD.
        text: the extended answer; "" for a quarantined one.
        problem: why it is quarantined, "" for a good one.
        unfaithful: answers, the last one included, that were refused for their content.
        answers: how many answers were taken, useless ones included.
        last: what the model wrote last, where it is quarantined.
    """

    id: str
    turn: int
    source_sha256: str
    prompt_sha256: str
    model: str
    date: str
    text: str = ""
    problem: str = ""
    unfaithful: int = 0
    answers: int = 1
    last: str = ""


def source_hash(question: str, answer: str) -> str:
    """Return the hash of a question and its answer."""
    return hashlib.sha256(json.dumps([question, answer]).encode()).hexdigest()


def place_of(uri: str, key: str) -> str:
    """Return where a block's records lie below `uri`; `key` is a hash of all that was asked."""
    return storage.join(uri, f"block-{key[:32]}.jsonl")


def save(where: str, records: list[Record]) -> None:
    """Write a block's records: whole or not at all."""
    text = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
    storage.write_bytes(where, text.encode("utf-8", errors="replace"))


def load(where: str) -> list[Record] | None:
    """Return a block's records, None where it was never done.

    Raises:
        CorpusError: a file that holds no records.
    """
    try:
        lines = storage.read_bytes(where).decode().splitlines()
        return [Record(**json.loads(line)) for line in lines]
    except NotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{where}: not answers that were stored here ({str(error)[:120]}); delete it.") from None
