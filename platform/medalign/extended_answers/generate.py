"""Extend a corpus's training answers by a language model: a Ray Data job, resumable; useless answers are set aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from medalign import storage
from medalign.data import manifest as manifests
from medalign.data.dialogue import Turns
from medalign.data.manifest import WITH_WORDS, Manifest
from medalign.data.reader import RowSource
from medalign.data.transform_rows import RowMapping, map_rows
from medalign.errors import CorpusError, UserError
from medalign.extended_answers import merge, records
from medalign.extended_answers.instruction import UnfaithfulError, Wording, read_revision
from medalign.extended_answers.records import STORED, Record
from medalign.faults import fault
from medalign.language_models import Endpoint, ask

TRAIN, BLOCK = "train", 16  # rows whose answers are stored together: as much is asked again after a crash
LOCAL = ("localhost", "127.0.0.1", "::1")
SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Extended:
    """What an extension came to.

    Attributes:
        uri: of the new corpus.
        manifest: of it.
        rows: of the train split.
        extended: rows that have an extended conversation now.
        answers: extended answers.
        quarantined: answers that could not be used, by problem's first words; their rows have no extended conversation.
        unfaithful: the share of all answers that the model gave and that the faithfulness check refused.
        asked: answers that were asked for now.
    """

    uri: str
    manifest: Manifest
    rows: int
    extended: int
    answers: int
    quarantined: dict[str, int]
    unfaithful: float
    asked: int


def extend(
    corpus: str,
    endpoint: Endpoint,
    *,
    out: str,
    about: str = "",
    parallel: int = 4,
    attempts: int = 3,
    actors: int = 0,
    limit: int | None = None,
    rejected: Sequence[tuple[str, int]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Extended:
    """Write a corpus whose training rows have extended answers beside their own; other splits stay as they are.

    Every answer of the train split is asked for once. The answers are at `out`.answers, a file for each block of rows;
    the same call again goes on where a killed one was. A malformed or unfaithful answer is asked for again, and told
    what was wrong, `attempts` times in all, then quarantined: its row has no extended conversation, which the alignment
    leaves out and which no other row replaces.

    Args:
        corpus: of conversations or questions.
        endpoint: who answers. One on another machine needs a corpus that may leave (`external_ok`).
        out: URI of the new corpus.
        about: what the images are, for the model.
        parallel: answers that are asked for at once, by each actor.
        attempts: answers taken for one question.
        actors: on Ray; 0 asks from this process.
        limit: only the first rows; the others stay without extended answers.
        rejected: (row id, turn) of answers that a review refused: treated as quarantined.
        progress: called with the number of rows done and of all.

    Raises:
        CorpusError: no such corpus, one without conversations or a train split, or something else at `out`.
        UserError: the corpus may not be sent to that endpoint, or numbers below 1.
        EndpointError: the endpoint refuses, or does not answer; finished blocks are kept.
    """
    if min(parallel, attempts) < 1 or actors < 0 or (limit is not None and limit < 1):
        raise UserError("parallel, attempts and limit must be >= 1, actors >= 0.")
    manifest = _checked(corpus, endpoint)
    merge.check_place(corpus, out, manifest)
    store = f"{storage.absolute(out).rstrip('/')}.answers"
    source = RowSource.open(corpus, (TRAIN,))
    count = min(limit or manifest.split(TRAIN).rows, manifest.split(TRAIN).rows)
    arguments = {
        "endpoint": endpoint,
        "about": about,
        "store": store,
        "parallel": parallel,
        "attempts": attempts,
    }
    mapping = RowMapping(
        mapper=Extender, arguments=arguments, columns=("id", "conversations"), block=BLOCK, actors=actors
    )
    found = map_rows(source, np.arange(count), mapping, progress=progress)
    kept = [Record(**raw) for text in found["records"] for raw in json.loads(text)]
    refused = set(rejected)
    kept = [_refused(record) if (record.id, record.turn) in refused else record for record in kept]
    provenance = {
        "extended_by": endpoint.model,
        "extended_prompt_sha256": Wording(about=about).prompt_sha256,
        "extended_from": manifest.fingerprint,
    }
    finished, extended = merge.write(corpus, out, kept, provenance=provenance)
    problems = [record.problem.partition(":")[0] for record in kept if record.problem]
    taken = sum(record.answers for record in kept)
    return Extended(
        uri=out,
        manifest=finished,
        rows=manifest.split(TRAIN).rows,
        extended=extended,
        answers=sum(not record.problem for record in kept),
        quarantined={problem: problems.count(problem) for problem in sorted(set(problems))},
        unfaithful=sum(record.unfaithful for record in kept) / max(taken, 1),
        asked=sum(int(text) for text in found["asked"]),
    )


class Extender:
    """Writes the answers of rows again; built once where rows are mapped."""

    def __init__(self, *, endpoint: Endpoint, about: str, store: str, parallel: int, attempts: int) -> None:
        self.endpoint, self.store = endpoint, store
        self.wording, self.parallel, self.attempts = Wording(about=about), parallel, attempts

    def __call__(self, rows: pa.Table) -> dict[str, list[str]]:
        """Return a row's records as JSON, and how many answers it took from the endpoint now."""
        ids, turns = rows["id"].to_pylist(), rows["conversations"].to_pylist()
        told = [self.endpoint.model, self.wording.prompt_sha256, ids, turns]
        where = records.place_of(self.store, hashlib.sha256(json.dumps(told).encode()).hexdigest())
        known = records.load(where)
        if known is None:
            asked = [(name, *pair) for name, said in zip(ids, turns, strict=True) for pair in _pairs(said)]
            with ThreadPoolExecutor(self.parallel) as pool:
                done = list(pool.map(self._extend, asked))
            fault("extended.before_block_is_stored")
            records.save(where, done)
            fault("extended.after_block_is_stored")
        found = done if known is None else known
        of_row: dict[str, list[Record]] = {name: [] for name in ids}
        for record in found:
            of_row[record.id].append(record)
        asked_now = [str(sum(r.answers for r in of_row[name]) if known is None else 0) for name in ids]
        return {"records": [json.dumps([asdict(r) for r in of_row[name]]) for name in ids], "asked": asked_now}

    def _extend(self, asked: tuple[str, int, str, str]) -> Record:
        """Ask until an answer counts, or there were enough."""
        name, turn, question, answer = asked
        messages = self.wording.messages(question, answer)
        request, problem, last, unfaithful, taken = messages, "", "", 0, 0
        text = ""
        while taken < self.attempts and not text:
            said = ask(self.endpoint, request)
            taken, problem, last = taken + 1, said.problem, said.text
            if said.is_rejected:
                break
            if not problem:
                try:
                    text = read_revision(said.text, question=question, answer=answer)
                except ValueError as error:
                    problem = str(error)[:SHOWN]
                    unfaithful += isinstance(error, UnfaithfulError)
            request = self.wording.again(messages, text=said.text[:STORED], problem=problem)
        return Record(
            id=name,
            turn=turn,
            source_sha256=records.source_hash(question, answer),
            prompt_sha256=self.wording.prompt_sha256,
            model=self.endpoint.model,
            date=date.today().isoformat(),
            text=text,
            problem="" if text else problem,
            unfaithful=unfaithful,
            answers=taken,
            last="" if text else last[:STORED],
        )


def _checked(corpus: str, endpoint: Endpoint) -> Manifest:
    manifest = manifests.read(corpus)
    if manifest.task not in WITH_WORDS:
        raise CorpusError(f"{corpus}: a corpus of {manifest.task}; only conversations and questions can be extended.")
    manifest.split(TRAIN)
    if urlsplit(endpoint.url).hostname not in LOCAL and not manifest.external_ok:
        raise UserError(
            f"{corpus}: may not be sent to {endpoint.url}; if its licence and your ethics approval allow it, prepare it"
            " with --external-ok, or ask a model on this machine."
        )
    return manifest


def _pairs(turns: Turns) -> list[tuple[int, str, str]]:
    """Return (turn, question, answer) of a conversation."""
    said = [turn["value"] for turn in turns]
    return [(n, said[2 * n], said[2 * n + 1]) for n in range(len(said) // 2)]


def _refused(record: Record) -> Record:
    return Record(**{**asdict(record), "text": "", "problem": "rejected in review", "last": record.text})
