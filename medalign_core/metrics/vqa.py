"""Scores of VQA answers: open recall and closed accuracy as published, defects included, and corrected twins.

A score is an array of one value per question, NaN where it does not apply; its mean over questions, weighted for a
bootstrap, is `mean_statistic`. A missing prediction (None) is a failure and counts as an empty answer, never as absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from medalign_core.metrics.answers import normalise_answer, normalise_as_published
from medalign_core.metrics.bleu import bleu, bleu_as_published
from medalign_core.metrics.intervals import Statistic

OPEN, CLOSED = "OPEN", "CLOSED"
YES_NO = ("yes", "no")


def vqa_scores(
    predictions: Sequence[str | None],
    references: Sequence[str],
    answer_types: Sequence[str],
    *,
    choices: Sequence[Sequence[str] | None] | None = None,
    candidates: Sequence[str] | None = None,
) -> dict[str, Float[ndarray, " N"]]:
    """Return every score of every question; those of open questions begin with `open`, of closed ones with `closed`.

    Names that end in `_corrected` are the twins of the published ones. `closed_accuracy_llava_med` is the variant that
    LLaVA-Med 1.0 computed: see `closed_hit_llava_med`.

    Args:
        predictions: the answers given; None for a failure.
        references: the right ones.
        answer_types: OPEN or CLOSED.
        choices: the options of each closed question; yes and no where None.
        candidates: the answers that `open_candidates` chooses from, usually the open answers of the train split; the
            score is left out if None.

    Raises:
        ValueError: lengths that differ, no questions, or another answer type.
    """
    count = len(references)
    if not count or len(predictions) != count or len(answer_types) != count:
        raise ValueError(f"{len(predictions)} predictions and {len(answer_types)} types for {count} references.")
    if unknown := set(answer_types) - {OPEN, CLOSED}:
        raise ValueError(f"answer_types must be OPEN or CLOSED, got {min(unknown)!r}.")
    given = ["" if prediction is None else prediction for prediction in predictions]
    is_open = np.array([kind == OPEN for kind in answer_types])
    options = [None] * count if choices is None else choices
    found: dict[str, Float[ndarray, " N"]] = {}
    for name, score in _OPEN_SCORES.items():
        found[name] = _per_question(score, given, references, where=is_open)
    if candidates is not None:
        chooser = CandidateSet(candidates)
        found["open_candidates"] = _per_question(chooser.hit, given, references, where=is_open)
    for name, score in (("closed_accuracy", closed_hit), ("closed_accuracy_llava_med", closed_hit_llava_med)):
        found[name] = _per_question(score, given, references, where=~is_open)
    found["closed_accuracy_corrected"] = np.array(
        [
            np.nan if is_open[n] else closed_hit_corrected(given[n], references[n], options[n] or YES_NO)
            for n in range(count)
        ]
    )
    return found


def mean_statistic(values: Float[ndarray, " N"]) -> Statistic:
    """Return the statistic weights (R, N) -> weighted mean of the values that are not NaN, (R,); NaN if all are."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0)

    def mean(weights: ndarray) -> ndarray:
        total = weights @ known.astype(np.float64)
        return np.divide(weights @ filled, total, out=np.full(total.shape, np.nan), where=total > 0)

    return mean


def dataset_statistic(open_values: Float[ndarray, " N"], closed_values: Float[ndarray, " N"]) -> Statistic:
    """Return the statistic (mean of the open values + mean of the closed ones) / 2: a VQA set's published score."""
    first, second = mean_statistic(open_values), mean_statistic(closed_values)
    return lambda weights: (first(weights) + second(weights)) / 2


def open_f1(prediction: str, reference: str) -> tuple[float, float, float]:
    """Return (F1, precision, recall) of words as published.

    Over the words of both texts: tp adds how often the *prediction* has a word that both have, fp how often it has
    another one, fn how often the reference has a word that the prediction lacks. So repeating a right word raises
    recall: "left left left" for "left lung" has 3 / (3 + 1). No common word gives zeros.
    """
    given, known = _counts(prediction), _counts(reference)
    tp = sum(count for word, count in given.items() if word in known)
    if not tp:
        return 0.0, 0.0, 0.0
    fn = sum(count for word, count in known.items() if word not in given)
    precision, recall = tp / sum(given.values()), tp / (tp + fn)
    return 2 * precision * recall / (precision + recall), precision, recall


def open_f1_corrected(prediction: str, reference: str) -> tuple[float, float, float]:
    """Return (F1, precision, recall) of words as multisets: a word counts as often as both texts have it."""
    given, known = _words_corrected(prediction), _words_corrected(reference)
    tp = (Counter(given) & Counter(known)).total()
    if not tp:
        return 0.0, 0.0, 0.0
    precision, recall = tp / len(given), tp / len(known)
    return 2 * precision * recall / (precision + recall), precision, recall


def exact_match(prediction: str, reference: str) -> float:
    """Return the published "exact match": how many words of the reference occur, by the prediction's length."""
    given, known = _counts(prediction), _counts(reference)
    return sum(word in given for word in known) / sum(given.values()) if given else 0.0


def exact_match_corrected(prediction: str, reference: str) -> float:
    """Return 1 if the normalised texts are equal."""
    return float(normalise_answer(prediction) == normalise_answer(reference))


def closed_hit(prediction: str, reference: str) -> float:
    """Return 1 if the normalised prediction contains the reference as text: "no" is in "normal"; "" in anything."""
    return float(_published(reference) in _published(prediction))


def closed_hit_llava_med(prediction: str, reference: str) -> float:
    """Return LLaVA-Med 1.0's closed hit: NaN, so in no denominator, for a wrong answer in which "yes" or "no" occurs.

    Where neither occurs it is 0, also for closed questions about something else. A prediction that says yes or no is
    therefore right whenever it counts.
    """
    given = _published(prediction)
    if "yes" not in given and "no" not in given:
        return 0.0
    return 1.0 if _published(reference) in given else float("nan")


def closed_hit_corrected(prediction: str, reference: str, choices: Sequence[str] = YES_NO) -> float:
    """Return 1 if the prediction says the reference, as whole words, and no other choice.

    A choice that is part of the reference's words ("left" of "left lung") does not count as another one.
    """
    given, right = normalise_answer(prediction).split(), normalise_answer(reference).split()
    others = (normalise_answer(choice).split() for choice in choices)
    rivals = [other for other in others if other != right and not _says(right, other)]
    return float(_says(given, right) and not any(_says(given, rival) for rival in rivals))


class CandidateSet:
    """Published "open accuracy": a prediction is mapped to the candidate of whose words it has the largest share."""

    def __init__(self, candidates: Sequence[str]) -> None:
        """Take the different candidates, in lower case, in order.

        Raises:
            ValueError: no candidates.
        """
        if not candidates:
            raise ValueError("a candidate set needs at least one answer.")
        different = dict.fromkeys(candidate.lower() for candidate in candidates)
        self._candidates = [normalise_as_published(candidate) for candidate in different]
        self._sizes = [len(set(text.split())) for text in self._candidates]
        self._with_word: dict[str, list[int]] = {}
        for place, text in enumerate(self._candidates):
            for word in set(text.split()):
                self._with_word.setdefault(word, []).append(place)

    def choose(self, prediction: str) -> str:
        """Return the candidate with the largest share of its different words in the prediction; the first of a tie."""
        common = Counter(place for word in _counts(prediction) for place in self._with_word.get(word, ()))
        best = min(common, key=lambda place: (-common[place] / self._sizes[place], place), default=0)
        return self._candidates[best]

    def hit(self, prediction: str, reference: str) -> float:
        """Return 1 if the chosen candidate is the reference."""
        return float(self.choose(prediction) == normalise_as_published(_published(reference)))


_OPEN_SCORES: dict[str, Callable[[str, str], float]] = {
    "open_recall": lambda given, known: open_f1(given, known)[2],
    "open_recall_corrected": lambda given, known: open_f1_corrected(given, known)[2],
    "open_precision": lambda given, known: open_f1(given, known)[1],
    "open_f1": lambda given, known: open_f1(given, known)[0],
    "open_f1_corrected": lambda given, known: open_f1_corrected(given, known)[0],
    "open_exact_match": exact_match,
    "open_exact_match_corrected": exact_match_corrected,
    "open_bleu": lambda given, known: bleu_as_published(_published(given).split(), _published(known).split()),
    "open_bleu_1": lambda given, known: bleu_as_published(
        _published(given).split(), _published(known).split(), order=1
    ),
    "open_bleu_2": lambda given, known: bleu_as_published(
        _published(given).split(), _published(known).split(), order=2
    ),
    "open_bleu_3": lambda given, known: bleu_as_published(
        _published(given).split(), _published(known).split(), order=3
    ),
    "open_bleu_corrected": lambda given, known: bleu(_words_corrected(given), _words_corrected(known)),
}


def _per_question(
    score: Callable[[str, str], float], given: Sequence[str], known: Sequence[str], *, where: ndarray
) -> Float[ndarray, " N"]:
    pairs = zip(given, known, where, strict=True)
    return np.array([score(prediction, reference) if applies else np.nan for prediction, reference, applies in pairs])


def _published(text: str) -> str:
    return normalise_as_published(text.lower())


def _counts(text: str) -> Counter[str]:
    return Counter(normalise_as_published(_published(text)).split())  # twice, as published: other periods go then


def _words_corrected(text: str) -> list[str]:
    return normalise_answer(text).split()


def _says(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Tell whether a phrase of at least one word occurs in a text, word by word."""
    span = len(phrase)
    return bool(span) and any(list(words[i : i + span]) == list(phrase) for i in range(len(words) - span + 1))
