"""Controls that a set tests vision: the same questions about a blank image, and about another question's image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from medalign.evaluation.vqa.questions import Question
from medalign_core.ops.draws import draw_seed


def shuffled_rows(questions: Sequence[Question], *, seed: int = 0) -> Int[ndarray, " N"]:
    """Return for each question the row whose image it is asked about instead: one of another group.

    Groups are dealt round in a seeded order, so that each group's questions are about one other group's first image
    and no group keeps its own; of a single group nothing can be dealt, and it keeps its image.

    Args:
        questions: of a split.
        seed: another seed deals another order.
    """
    first: dict[str, int] = {}
    for question in questions:
        first.setdefault(question.group, question.row)
    names = sorted(first)
    draws = np.random.Generator(np.random.Philox(key=draw_seed(seed, "shuffled image")))
    dealt = [names[n] for n in draws.permutation(len(names))]
    other = {name: dealt[(n + 1) % len(dealt)] for n, name in enumerate(dealt)}
    return np.array([first[other[question.group]] for question in questions])
