"""The answers of a model to a split's questions: blocks of rows through one answerer, here or in actors on Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from medalign.data import manifest as manifests
from medalign.data.reader import RowSource
from medalign.data.transform_rows import IMAGE, OTHER, RowMapping, map_rows
from medalign.evaluation.vqa.answerers import Remote, black_image, open_answerer
from medalign.evaluation.vqa.controls import shuffled_rows
from medalign.evaluation.vqa.predictions import BLANK, CANDIDATES, GREEDY, SHUFFLED, Predictions
from medalign.evaluation.vqa.questions import Question, prompts_of
from medalign.language_models import Endpoint

SECONDS = "seconds"


class Answers:
    """Maps rows to texts, one column per decoding, and the seconds that a greedy one took."""

    def __init__(
        self,
        source: str | Endpoint,
        *,
        classes: Sequence[str],
        decodings: Sequence[str],
        max_new_tokens: int,
        batch: int,
    ) -> None:
        self.classes, self.decodings = tuple(classes), tuple(decodings)
        self.answerer: Any = (
            Remote(source)
            if isinstance(source, Endpoint)
            else open_answerer(source, max_new_tokens=max_new_tokens, batch=batch)
        )

    def __call__(self, rows: pa.Table) -> dict[str, list[str]]:
        """Answer a block of rows."""
        prompts = prompts_of(rows, self.classes)
        images = rows[IMAGE].to_pylist()
        found: dict[str, list[str]] = {}
        if GREEDY in self.decodings:
            began = time.monotonic()
            found[GREEDY] = self.answerer.answer(images, prompts)
            found[SECONDS] = [str((time.monotonic() - began) / len(rows))] * len(rows)
        if CANDIDATES in self.decodings:
            found[CANDIDATES] = self.answerer.choose(images, prompts, self._choices(rows))
        if BLANK in self.decodings:
            found[BLANK] = self.answerer.answer([black_image()] * len(rows), prompts)
        if SHUFFLED in self.decodings:
            found[SHUFFLED] = self.answerer.answer(rows[OTHER].to_pylist(), prompts)
        return found

    def _choices(self, rows: pa.Table) -> list[Sequence[str]]:
        if "choices" not in rows.column_names:
            return [self.classes] * len(rows)
        return [choices or () for choices in rows["choices"].to_pylist()]


def answer_questions(
    source: str | Endpoint,
    corpus: str,
    split: str,
    questions: Sequence[Question],
    *,
    name: str,
    model_seed: int = 0,
    decodings: Sequence[str] = (GREEDY,),
    max_new_tokens: int = 64,
    batch: int = 8,
    workers: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Predictions], float]:
    """Return a model's predictions, an entry per decoding, and the mean seconds of a greedy answer.

    Args:
        source: a model directory, or an endpoint.
        corpus: its URI.
        split: which split.
        questions: of the split.
        name: what the model is called in the table.
        model_seed: of its training; comparisons pair by it.
        decodings: of `predictions`: "greedy", and beside it "candidates", "blank image", "shuffled image".
        max_new_tokens: the most tokens of an answer.
        batch: questions that are answered at once.
        workers: actors on Ray, each with its own model; 0 answers in this process.
        seed: of the shuffled images.
        progress: called with the number of questions done and of all.

    Raises:
        UserError: the model cannot be opened, or gives no likelihoods.
        CorpusError: a shard cannot be read.
        EndpointError: the endpoint refuses.
    """
    manifest = manifests.read(corpus)
    words = () if manifest.task == "images" else ("conversations", "choices")
    arguments = {
        "source": source,
        "classes": manifest.classes,
        "decodings": tuple(decodings),
        "max_new_tokens": max_new_tokens,
        "batch": batch,
    }
    columns = words or ("id",)
    block = 4 * batch
    mapping = RowMapping(mapper=Answers, arguments=arguments, columns=columns, block=block, actors=workers)
    rows = np.array([question.row for question in questions])
    others = shuffled_rows(questions, seed=seed) if SHUFFLED in decodings else None
    found = map_rows(RowSource.open(corpus, (split,)), rows, mapping, others=others, progress=progress)
    seconds = float(np.mean([float(text) for text in found.pop(SECONDS)]))
    told = {how: _by_id(how, found[how], questions) for how in decodings}
    return [Predictions(model=name, seed=model_seed, decoding=how, texts=told[how]) for how in decodings], seconds


def _by_id(decoding: str, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, str]:
    """Return one decoding's texts; options are chosen only where the right answer is among them."""
    return {
        question.id: text
        for question, text in zip(questions, texts, strict=True)
        if decoding != CANDIDATES or question.right_choice is not None
    }
