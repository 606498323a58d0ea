"""Multiple choice by free text: which option an answer means; failures stay in the denominator."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from medalign_core.metrics.answers import normalise_answer

LETTERS = tuple("abcdefgh")


def most_similar(prediction: str, choices: Sequence[str]) -> int | None:
    """Return the option most similar to an answer by difflib's ratio, the first of a tie; None if all ratios are 0.

    Source: behaviour of LoGra-Med's zero-shot evaluation. It maps nearly any text to some option.
    """
    ratios = [difflib.SequenceMatcher(None, choice, prediction).ratio() for choice in choices]
    best = max(ratios, default=0.0)
    return ratios.index(best) if best > 0 else None


def said(prediction: str, choices: Sequence[str]) -> int | None:
    """Return the option that an answer says: its letter alone, or its words; None if it says none or several.

    Of options of which one is part of another ("left" of "left lung") the longest that is said counts.
    """
    words = normalise_answer(prediction).split()
    if len(words) == 1 and words[0] in LETTERS[: len(choices)]:
        return LETTERS.index(words[0])
    texts = [f" {normalise_answer(choice)} " for choice in choices]
    given = f" {' '.join(words)} "
    found = [n for n, text in enumerate(texts) if text.strip() and text in given]
    whole = [n for n in found if not any(m != n and texts[n] in texts[m] for m in found)]
    return whole[0] if len(whole) == 1 else None


def choice_hits(
    predictions: Sequence[str | None],
    references: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    chosen: Callable[[str, Sequence[str]], int | None] = most_similar,
) -> Float[ndarray, " N"]:
    """Return 1 for each question whose answer means the right option, else 0.

    A failure (None) and an answer that means no option are wrong: published code drops them, which raises the figure.

    Args:
        predictions: the answers given; None for a failure.
        references: the right options, each one of its question's `choices`.
        choices: the options of each question.
        chosen: which option an answer means: `most_similar` as published, or `said`.

    Raises:
        ValueError: lengths that differ, no questions, or a reference that is no option.
    """
    if not references or not len(predictions) == len(references) == len(choices):
        raise ValueError(f"{len(predictions)} predictions and {len(choices)} choices for {len(references)} references.")
    hits = []
    for prediction, reference, options in zip(predictions, references, choices, strict=True):
        if reference not in options:
            raise ValueError(f"the reference {reference!r} is none of its options.")
        place = None if prediction is None else chosen(prediction, options)
        hits.append(place is not None and options[place] == reference)
    return np.array(hits, dtype=np.float64)


def macro_mean(values: Float[ndarray, " N"], parts: Sequence[str]) -> dict[str, float]:
    """Return the mean of each part, by name, and under "macro" the unweighted mean of these means."""
    names = np.asarray(parts)
    found = {str(name): float(values[names == name].mean()) for name in np.unique(names)}
    return {**found, "macro": float(np.mean(list(found.values())))}
