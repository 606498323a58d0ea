"""From predictions to scores: published ones and corrected twins, each with an interval that resamples images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from medalign.evaluation.vqa.predictions import CANDIDATES, Predictions
from medalign.evaluation.vqa.questions import Question
from medalign.evaluation.vqa.result import VqaScore
from medalign_core.metrics.intervals import Interval, Statistic, bootstrap_interval
from medalign_core.metrics.multiple_choice import choice_hits, most_similar, said
from medalign_core.metrics.vqa import vqa_scores

# a set's score is the mean of its open and its closed part, where it has both
SCORES = {
    "score": ("open_recall", "closed_accuracy"),
    "score_corrected": ("open_recall_corrected", "closed_accuracy_corrected"),
}
HEADLINES = ("open_recall", "open_recall_corrected", "closed_accuracy", "closed_accuracy_corrected")
CHOICE, CHOICE_CORRECTED = "choice_accuracy", "choice_accuracy_corrected"
PerQuestion = dict[str, Float[ndarray, " N"]]


def question_scores(
    predictions: Predictions, questions: Sequence[Question], *, candidates: Sequence[str] | None = None
) -> PerQuestion:
    """Return every score of every question, NaN where it does not apply.

    Beside those of `vqa_scores`, `choice_accuracy` is of closed questions whose options are known: the option most
    similar to the text, as published, and as corrected the one that the text says. A failure is wrong everywhere.

    Args:
        predictions: complete ones, or of the decoding "candidates", which has those questions alone that have options.
        questions: of the split.
        candidates: what `open_candidates` chooses from; left out if None.
    """
    texts = [predictions.texts.get(question.id) for question in questions]
    found: PerQuestion = {}
    if predictions.decoding != CANDIDATES:
        found = vqa_scores(
            texts,
            [question.answer for question in questions],
            [question.answer_type for question in questions],
            choices=[question.choices or None for question in questions],
            candidates=candidates,
        )
    rights = [question.right_choice for question in questions]
    places = [n for n, right in enumerate(rights) if right is not None]
    for name, chosen in ((CHOICE, most_similar), (CHOICE_CORRECTED, said)):
        found[name] = np.full(len(questions), np.nan)
        if places:
            given = [texts[n] for n in places]
            options = [questions[n].choices for n in places]
            found[name][places] = choice_hits(given, [str(rights[n]) for n in places], options, chosen=chosen)
    return {name: values for name, values in found.items() if not np.isnan(values).all()}


def statistics_of(scores: PerQuestion, questions: Sequence[Question]) -> dict[str, Statistic]:
    """Return each score's mean as a function of the weights of images (R, G), and the scores of the whole set.

    Groups are those of `groups_of`. Resampling images with all their questions is the same as resampling questions
    by image, and costs a matrix as wide as there are images.
    """
    names, member = np.unique([question.group for question in questions], return_inverse=True)
    found = {name: _mean(values, member, len(names)) for name, values in scores.items()}
    for name, (first, second) in SCORES.items():
        if first in found and second in found:
            found[name] = _half(found[first], found[second])
    return found


def groups_of(questions: Sequence[Question]) -> ndarray:
    """Return the (G,) different images of some questions, sorted."""
    return np.unique([question.group for question in questions])


def score(
    predictions: Predictions,
    questions: Sequence[Question],
    *,
    candidates: Sequence[str] | None = None,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> VqaScore:
    """Return the scores of one model with intervals, over all questions and per question type."""
    found = question_scores(predictions, questions, candidates=candidates)

    def interval(statistic: Statistic, groups: ndarray) -> Interval:
        return bootstrap_interval(statistic, groups, replicates=replicates, level=level, seed=seed)

    groups = groups_of(questions)
    whole = {name: interval(s, groups) for name, s in statistics_of(found, questions).items()}
    return VqaScore(
        model=predictions.model,
        seed=predictions.seed,
        decoding=predictions.decoding,
        questions=len(predictions.texts),
        failures=predictions.failures,
        metrics=whole,
        types=_per_type(found, questions, interval),
    )


def _per_type(
    scores: PerQuestion, questions: Sequence[Question], interval: Callable[[Statistic, ndarray], Interval]
) -> dict[str, dict[str, Interval]]:
    """Return the headline scores of each question type, where the set has types."""
    types = np.array([question.question_type for question in questions])
    kept = [name for name in (*HEADLINES, CHOICE, CHOICE_CORRECTED) if name in scores]
    found: dict[str, dict[str, Interval]] = {}
    for kind in np.unique(types):
        places = np.flatnonzero(types == kind).tolist()
        if not kind or len(places) == len(questions):
            continue
        part = [questions[n] for n in places]
        own: Mapping[str, ndarray] = {name: scores[name][places] for name in kept}
        known = {name: values for name, values in own.items() if not np.isnan(values).all()}
        statistics = statistics_of(known, part)
        groups = groups_of(part)
        found[str(kind)] = {name: interval(statistics[name], groups) for name in known}
    return found


def _mean(values: ndarray, member: ndarray, count: int) -> Statistic:
    known = ~np.isnan(values)
    sums = np.bincount(member, np.where(known, values, 0), count)
    counts = np.bincount(member, known, count)

    def mean(weights: ndarray) -> ndarray:
        total = weights @ counts
        return np.divide(weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)

    return mean


def _half(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights: (first(weights) + second(weights)) / 2
