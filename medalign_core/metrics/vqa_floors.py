"""What needs no image: majority and nearest-question answers, the floors below which a VQA score means nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from medalign_core.metrics.answers import normalise_answer

_ROWS = 256  # questions compared at once


class Asked(NamedTuple):
    """A question: its text, its answer, its type (of any kind that is known without the image) and its image."""

    question: str
    answer: str
    question_type: str = ""
    image: str = ""


def majority_of_type(train: Sequence[Asked], asked: Sequence[Asked]) -> list[str]:
    """Return for each question the most frequent answer of its type in training; of all of it for an unknown type.

    Raises:
        ValueError: no training questions.
    """
    _check(train)
    by_type: dict[str, list[str]] = {}
    for each in train:
        by_type.setdefault(each.question_type, []).append(each.answer)
    overall = most_frequent(each.answer for each in train)
    found = {kind: most_frequent(answers) for kind, answers in by_type.items()}
    return [found.get(each.question_type, overall) for each in asked]


def question_only(train: Sequence[Asked], asked: Sequence[Asked]) -> list[str]:
    """Return for each question the most frequent answer of the training questions nearest to it: all that tie.

    Near is |A & B| / |A | B| of the sets of words of two questions.

    Raises:
        ValueError: no training questions.
    """
    return [most_frequent(train[n].answer for n in _ties(row)) for row in _similarities(train, asked)]


def nearest_question(train: Sequence[Asked], asked: Sequence[Asked]) -> list[str]:
    """Return for each question the answer of the nearest training question, the first of a tie.

    Raises:
        ValueError: no training questions.
    """
    return [train[int(row.argmax())].answer for row in _similarities(train, asked)]


def nearest_question_of_image(train: Sequence[Asked], asked: Sequence[Asked]) -> list[str]:
    """Return the answer of the nearest training question about the same image; of all of them where it has none.

    What this scores beyond `nearest_question` is what a split that shares images gives away.

    Raises:
        ValueError: no training questions.
    """
    images = np.array([each.image for each in train])
    found = []
    for each, row in zip(asked, _similarities(train, asked), strict=True):
        same = images == each.image
        found.append(train[int(np.where(same, row, -1).argmax() if same.any() else row.argmax())].answer)
    return found


def most_frequent(answers: Iterable[str]) -> str:
    """Return the answer whose normalised form is most frequent, as first spelt; the first of a tie."""
    counts: Counter[str] = Counter()
    spelt: dict[str, str] = {}
    for answer in answers:
        normal = normalise_answer(answer)
        counts[normal] += 1
        spelt.setdefault(normal, answer)
    return spelt[counts.most_common(1)[0][0]]


def _similarities(train: Sequence[Asked], asked: Sequence[Asked]) -> Iterable[np.ndarray]:
    """Yield for each question its similarity to every training question, (T,) in [0, 1]."""
    from scipy import sparse  # here: it takes a while to import

    _check(train)
    vocabulary: dict[str, int] = {}
    sides = []
    for side in (train, asked):
        words = [set(normalise_answer(each.question).split()) for each in side]
        columns = [vocabulary.setdefault(word, len(vocabulary)) for each in words for word in sorted(each)]
        starts = np.concatenate([[0], np.cumsum([len(each) for each in words])])
        sides.append((columns, starts))
    tables = [
        sparse.csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(starts) - 1, len(vocabulary)))
        for columns, starts in sides
    ]
    sizes = [np.diff(starts) for _, starts in sides]
    for low in range(0, len(asked), _ROWS):
        common = (tables[1][low : low + _ROWS] @ tables[0].T).toarray()  # (rows, T)
        union = sizes[1][low : low + _ROWS, None] + sizes[0][None] - common
        yield from np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _ties(row: np.ndarray) -> list[int]:
    return [int(n) for n in np.flatnonzero(row == row.max())]


def _check(train: Sequence[Asked]) -> None:
    if not train:
        raise ValueError("floors need training questions.")
