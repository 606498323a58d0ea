"""What a model has answered so far: one small file for each class beside the bank, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from medalign import storage
from medalign.errors import BankError, NotFoundError

STORED = 4000  # characters of an answer


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One answer of the model that could not be used, and why."""

    text: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that was answered to one question.

    Attributes:
        name: of the class.
        question: a hash of the model and the messages; another question has another record.
        sentences: of the answer that counts, () while there is none.
        attempts: the answers that do not count, in order.
    """

    name: str
    question: str
    sentences: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    def failed(self, text: str, problem: str) -> Record:
        """Return the record with one more useless answer."""
        return replace(self, attempts=(*self.attempts, Attempt(text=text[:STORED], problem=problem)))


@dataclass(frozen=True, kw_only=True)
class AnswerStore:
    """The folder of a bank's records; each is written whole or not at all."""

    uri: str

    def load(self, name: str, *, model: str, messages: Sequence[dict[str, str]]) -> Record:
        """Return the record of a question, an empty one if it was never answered.

        Raises:
            BankError: a file that is no record.
        """
        question = hashlib.sha256(json.dumps([model, list(messages)]).encode()).hexdigest()
        record = Record(name=name, question=question)
        where = self._place(record)
        try:
            raw = json.loads(storage.read_bytes(where))
            if raw["question"] != question or raw["name"] != name:
                raise ValueError("of another question")
            attempts = tuple(Attempt(**attempt) for attempt in raw["attempts"])
            return replace(record, sentences=tuple(map(str, raw["sentences"])), attempts=attempts)
        except NotFoundError:
            return record
        except (ValueError, LookupError, TypeError) as error:
            raise BankError(f"{where}: not an answer that was stored here ({error}); delete it.") from None

    def save(self, record: Record) -> None:
        """Write a record."""
        text = json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"
        storage.write_bytes(self._place(record), text.encode("utf-8", errors="replace"))

    def _place(self, record: Record) -> str:
        readable = re.sub(r"[^a-z0-9]+", "_", record.name.casefold()).strip("_")[:40]
        return storage.join(self.uri, f"{readable or 'class'}-{record.question[:16]}.json")
