"""Write a bank with a language model: each class is asked once, a killed job goes on, useless answers are set aside."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

from medalign import banks, storage
from medalign.banks.answer_store import AnswerStore, Record
from medalign.banks.bank import Bank, Provenance
from medalign.banks.instruction import Request
from medalign.errors import BankError
from medalign.faults import fault
from medalign.language_models import Endpoint, ask

SHOWN = 200
Progress = Callable[[int, int, str, str], None]  # classes done, of all, the class, its problem ("": none)
NOTE = "Written by a language model; check every sentence against what the images show before it is used."


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a generation came to.

    Attributes:
        uri: of the bank.
        bank: None while a class has no answer that can be used: a bank is complete or absent.
        quarantined: why, by class.
        requests: answers that were asked for now.
        answers: the folder of what was answered.
    """

    uri: str
    bank: Bank | None
    quarantined: dict[str, str]
    requests: int
    answers: str


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One class, done: its sentences, or why it has none."""

    name: str
    sentences: tuple[str, ...]
    problem: str
    requests: int


def generate(
    request: Request,
    endpoint: Endpoint,
    *,
    out: str,
    parallel: int = 4,
    attempts: int = 3,
    ask_again: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Generated:
    """Write the bank of `request` at `out`; the same call again goes on where a killed one was, and asks nothing twice.

    The answers are at `out`.answers, a file for each class. A malformed answer (no JSON, a wrong count, a sentence
    twice or too long) is stored with its reason, and the model is asked again and told what was wrong, `attempts`
    times in all; then the class is quarantined, the others go on, and no bank is written.

    Args:
        request: the classes and what is wanted of each.
        endpoint: who answers.
        out: URI of the bank.
        parallel: classes that are asked at once.
        attempts: answers of a class that are taken.
        ask_again: give quarantined classes as many attempts once more.
        overwrite: replace another bank at `out`.
        progress: called after each class.

    Raises:
        BankError: another bank is at `out`, or numbers below 1.
        EndpointError: the endpoint refuses, or does not answer; what was answered is kept.
        StorageError: `out` cannot be reached.
    """
    if min(parallel, attempts) < 1:
        raise BankError(f"parallel and attempts must be >= 1, got {parallel} and {attempts}.")
    store = AnswerStore(uri=f"{out.rstrip('/')}.answers")
    done = _existing(request, endpoint, out=out, overwrite=overwrite)
    if done is not None:
        return Generated(uri=out, bank=done, quarantined={}, requests=0, answers=store.uri)
    asker = _Asker(request, endpoint, store, attempts=attempts, ask_again=ask_again)
    found = _ask_all(asker, list(request.classes), parallel=parallel, progress=progress)
    quarantined = {name: found[name].problem for name in request.classes if found[name].problem}
    bank = None
    if not quarantined:
        bank = _bank(request, endpoint, {name: found[name].sentences for name in request.classes})
        banks.require(bank)
        banks.write(out, bank)
    requests = sum(asked.requests for asked in found.values())
    return Generated(uri=out, bank=bank, quarantined=quarantined, requests=requests, answers=store.uri)


class _Asker:
    """Asks about one class until an answer counts; called from several threads."""

    def __init__(
        self, request: Request, endpoint: Endpoint, store: AnswerStore, *, attempts: int, ask_again: bool
    ) -> None:
        self._request, self._endpoint, self._store = request, endpoint, store
        self._attempts, self._ask_again = attempts, ask_again

    def __call__(self, name: str) -> _Asked:
        messages = self._request.messages(name)
        record = self._store.load(name, model=self._endpoint.model, messages=messages)
        left = self._attempts if self._ask_again else self._attempts - len(record.attempts)
        requests = 0
        while not record.sentences and left > requests:
            answer = ask(self._endpoint, self._question(messages, record))
            requests += 1
            if answer.is_rejected:  # the model has not seen it, so that nothing is stored
                return _Asked(name=name, sentences=(), problem=answer.problem, requests=requests)
            problem = answer.problem
            if not problem:
                try:
                    record = replace(record, sentences=self._request.read_answer(answer.text))
                except ValueError as error:
                    problem = str(error)[:SHOWN]  # it may hold keys that the model made up
            record = record.failed(answer.text, problem) if problem else record
            fault("bank.before_answer_is_stored")
            self._store.save(record)
            fault("bank.after_answer_is_stored")
        problem = "" if record.sentences else record.attempts[-1].problem
        return _Asked(name=name, sentences=record.sentences, problem=problem, requests=requests)

    def _question(self, messages: list[dict[str, str]], record: Record) -> list[dict[str, str]]:
        if not record.attempts:
            return messages
        last = record.attempts[-1]
        return self._request.again(messages, text=last.text, problem=last.problem)


def _ask_all(asker: _Asker, names: list[str], *, parallel: int, progress: Progress | None) -> dict[str, _Asked]:
    """Return what came of every class. Threads are daemons: an interrupted program need not wait for an answer.

    Raises:
        MedAlignError: the first that a class ended with; no further class is begun.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[_Asked | BaseException] = queue.SimpleQueue()
    stopped = threading.Event()
    for name in names:
        waiting.put(name)

    def work() -> None:
        while not stopped.is_set():
            try:
                done.put(asker(waiting.get_nowait()))
            except queue.Empty:
                return
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                done.put(error)
                return

    for _ in range(min(parallel, len(names))):
        threading.Thread(target=work, name="medalign-bank", daemon=True).start()
    found: dict[str, _Asked] = {}
    try:
        while len(found) < len(names):
            asked = done.get()
            if isinstance(asked, BaseException):
                raise asked
            found[asked.name] = asked
            if progress is not None:
                progress(len(found), len(names), asked.name, asked.problem)
    finally:
        stopped.set()
    return found


def _existing(request: Request, endpoint: Endpoint, *, out: str, overwrite: bool) -> Bank | None:
    """Return the bank at `out` if this call would ask the same: it may have been corrected by hand since.

    Raises:
        BankError: it is another one.
    """
    if overwrite or not storage.exists(out):
        return None
    bank = banks.read(out)
    origin = bank.provenance
    have = (list(bank.classes), bank.template, origin.author, origin.prompt_sha256)
    if have == (list(request.classes), request.template, endpoint.model, request.prompt_sha256):
        return bank
    raise BankError(
        f"{out}: another bank is here ({bank.name!r}, by {origin.author}); choose another place, or overwrite it."
    )


def _bank(request: Request, endpoint: Endpoint, sentences: dict[str, tuple[str, ...]]) -> Bank:
    return Bank(
        name=request.name,
        template=request.template,
        classes=sentences,
        display_names={name: display for name, display in request.classes.items() if display != name},
        provenance=Provenance(
            author=endpoint.model,
            kind="model",
            date=date.today().isoformat(),
            prompt_sha256=request.prompt_sha256,
            note=NOTE,
        ),
    )
