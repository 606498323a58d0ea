"""Paired comparisons of predictions on the same questions: over seeds and images, one declared before looking."""

from __future__ import annotations

from collections.abc import Sequence

from medalign.errors import UserError
from medalign.evaluation.compare import judge, pair_by_seed
from medalign.evaluation.result import Comparison
from medalign.evaluation.vqa.predictions import GREEDY, Predictions
from medalign.evaluation.vqa.questions import Question
from medalign.evaluation.vqa.scoring import CHOICE_CORRECTED, groups_of, question_scores, statistics_of
from medalign_core.metrics.intervals import minus, paired_difference

# the first of these that a set has is the primary one; this order is declared here, before any result
PRIMARY = ("score_corrected", CHOICE_CORRECTED, "closed_accuracy_corrected", "open_recall_corrected")
SECONDARY = ("open_recall_corrected", "closed_accuracy_corrected", "open_recall", "closed_accuracy", CHOICE_CORRECTED)


def compare(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    questions: Sequence[Question],
    *,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Return the paired comparisons of two sides, the first minus the second, on the same questions.

    Predictions are paired by seed; a side with a single seed meets each of the other's. Every replicate draws seeds
    and images together. The primary comparison's p-value stands, those of the others are Holm-corrected.

    Args:
        first: the predictions of one side, one entry per seed.
        second: of the other.
        questions: what both answered.
        replicates: how many resamples.
        level: of the intervals.
        seed: of the resamples.

    Raises:
        UserError: the sides have no seed in common, or a seed twice.
    """
    pairs = _pairs(first, second)
    sides = [
        [statistics_of(question_scores(p, questions), questions) for p in side] for side in zip(*pairs, strict=True)
    ]
    shared = [name for name in dict.fromkeys((*PRIMARY, *SECONDARY)) if name in sides[0][0] and name in sides[1][0]]
    primary = next(name for name in PRIMARY if name in shared)
    groups = groups_of(questions)
    found = []
    for name in (primary, *(name for name in SECONDARY if name in shared and name != primary)):
        differences = [minus(a[name], b[name]) for a, b in zip(*sides, strict=True)]
        difference = paired_difference(differences, groups, replicates=replicates, level=level, seed=seed)
        found.append(
            Comparison(
                method=_name(first),
                against=_name(second),
                head=first[0].decoding,
                metric=name,
                role="primary" if name == primary else "secondary",
                difference=difference,
                adjusted=difference.p_value,
                verdict="",
            )
        )
    return judge(found, level)


def _pairs(first: Sequence[Predictions], second: Sequence[Predictions]) -> list[tuple[Predictions, Predictions]]:
    ours, theirs = _by_seed(first), _by_seed(second)
    pairs = pair_by_seed(ours, theirs)
    if not pairs:
        raise UserError(f"{first[0].model} and {second[0].model} have no seed in common; pairs need the same seeds.")
    return pairs


def _by_seed(side: Sequence[Predictions]) -> dict[int, Predictions]:
    if not side:
        raise UserError("a side of a comparison has no answers.")
    found = {each.seed: each for each in side}
    if len(found) < len(side):
        raise UserError(f"each side of a comparison has each seed once; {_name(side)} has {len(side)} entries.")
    return found


def _name(side: Sequence[Predictions]) -> str:
    names = (each.model if each.decoding == GREEDY else f"{each.model} ({each.decoding})" for each in side)
    return ", ".join(dict.fromkeys(names))
