"""From the cells of the table to Markdown: means over seeds with intervals over seeds and pictures, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray
from pictures import Picture
from statements import statements_of

from medalign.evaluation.compare import judge
from medalign.evaluation.result import spread
from medalign_core.metrics.answers import normalise_answer
from medalign_core.metrics.intervals import Difference, Statistic, minus, paired_difference

Found = Mapping[tuple[str, float, int], Mapping[str, Any]]  # (arm, share, seed) -> a cell's answers and statistics
REPLICATES, LEVEL = 2000, 0.95


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A paired comparison of two arms at a share of the data."""

    arm: str
    against: str
    share: float
    role: str
    difference: Difference
    adjusted: float = float("nan")
    verdict: str = ""


class Accuracy:
    """Accuracy as the mean over question types of the share of answers that are right, once normalised."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        asked = [(picture.group, each) for picture in pictures for each in statements_of(picture)]
        self.statements = [each for _, each in asked]
        self.groups, self._member = np.unique([group for group, _ in asked], return_inverse=True)
        self.types = sorted({each.type for each in self.statements})
        self._of_type = np.array([self.types.index(each.type) for each in self.statements])

    def right(self, answers: Mapping[str, str]) -> ndarray:
        """Return (N,) 1 where an answer is right."""
        same = [normalise_answer(answers[s.id]) == normalise_answer(s.answer) for s in self.statements]
        return np.array(same, dtype=np.float64)

    def statistic(self, answers: Mapping[str, str]) -> Statistic:
        """Return weights of groups (R, G) -> accuracy (R,)."""
        right, shape = self.right(answers), (len(self.types), len(self.groups))
        hits, all_ = np.zeros(shape), np.zeros(shape)
        np.add.at(hits, (self._of_type, self._member), right)
        np.add.at(all_, (self._of_type, self._member), 1)

        def mean(weights: ndarray) -> ndarray:
            with np.errstate(invalid="ignore"):
                shares: ndarray = (weights @ hits.T) / (weights @ all_.T)
            return np.nanmean(shares, axis=1)

        return mean

    def per_type(self, answers: Mapping[str, str]) -> list[float]:
        """Return the accuracy of each type."""
        right = self.right(answers)
        return [float(right[self._of_type == n].mean()) for n in range(len(self.types))]


def markdown(
    found: Found, accuracy: Accuracy, *, shares: Sequence[float], seeds: Sequence[int], primary: tuple[str, str, float]
) -> str:
    """Return the tables of all arms that have a cell for every seed and share."""
    arms = [arm for arm in dict.fromkeys(arm for arm, _, _ in found) if _whole(found, arm, shares, seeds)]
    parts = [_scores(found, accuracy, arms, share, seeds) for share in shares]
    parts.append(_comparisons(_verdicts(found, accuracy, arms, shares, seeds, primary), primary))  # noqa: E501
    parts.append(_per_type(found, accuracy, arms, shares, seeds))
    return "\n\n".join(parts) + "\n"


def _whole(found: Found, arm: str, shares: Sequence[float], seeds: Sequence[int]) -> bool:
    return all((arm, share, seed) in found for share in shares for seed in seeds)


def _scores(found: Found, accuracy: Accuracy, arms: Sequence[str], share: float, seeds: Sequence[int]) -> str:
    pictures = found[arms[0], share, seeds[0]]["pictures"]
    head = (
        f"**{share:.0%} of stage-2 data** ({pictures} pictures)\n\n"
        "| arm | accuracy | blank image | other image | retrieval | Hamming | aligned of 16 | steps |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    lines = [head]
    for arm in arms:
        cells = [found[arm, share, seed] for seed in seeds]
        values = [spread(_over_seeds(cells, accuracy, way)) for way in ("answers",)]
        plain = [f"{_over_seeds(cells, accuracy, way).estimate:.3f}" for way in ("blank", "shuffled")]
        hits = f"{np.mean([cell['retrieval']['hits_at_1'] for cell in cells]):.3f}"
        stats = {name: float(np.mean([cell["stats"][name] for cell in cells])) for name in cells[0]["stats"]}
        moved = f"{stats['first_hamming']:.2f} to {stats['last_hamming']:.2f}" if "last_hamming" in stats else ""
        aligned = f"{stats['last_aligned_samples']:.1f}" if "last_aligned_samples" in stats else ""
        steps = f"{np.mean([cell['steps'] for cell in cells]):.0f}"
        lines.append(f"| {' | '.join([arm, *values, *plain, hits, moved, aligned, steps])} |")
    return "\n".join(lines)


def _over_seeds(cells: Sequence[Mapping[str, Any]], accuracy: Accuracy, way: str) -> Difference:
    return paired_difference(
        [accuracy.statistic(cell[way]) for cell in cells], accuracy.groups, replicates=REPLICATES, level=LEVEL
    )


def _verdicts(
    found: Found,
    accuracy: Accuracy,
    arms: Sequence[str],
    shares: Sequence[float],
    seeds: Sequence[int],
    primary: tuple[str, str, float],
) -> tuple[Verdict, ...]:
    """Compare every other arm with the primary's second one, and the primary's first one with the aligned ones."""
    ours, floor, at = primary
    pairs = [(arm, floor) for arm in arms if arm != floor]
    pairs += [(ours, arm) for arm in arms if arm not in (ours, floor)]
    verdicts = []
    for arm, against in pairs:
        for share in shares:
            sides = [
                [accuracy.statistic(found[name, share, seed]["answers"]) for seed in seeds] for name in (arm, against)
            ]
            differences = [minus(a, b) for a, b in zip(*sides, strict=True)]
            difference = paired_difference(differences, accuracy.groups, replicates=REPLICATES, level=LEVEL)
            role = "primary" if (arm, against, share) == (ours, floor, at) else "secondary"
            verdicts.append(Verdict(arm=arm, against=against, share=share, role=role, difference=difference))
    return judge(sorted(verdicts, key=lambda v: v.role != "primary"), LEVEL)


def _comparisons(verdicts: Sequence[Verdict], primary: tuple[str, str, float]) -> str:
    lines = ["| comparison | share | difference | p | verdict |\n|---|---|---|---|---|"]
    for v in verdicts:
        name = f"{v.arm} - {v.against}"
        name = f"**{name}** (primary)" if v.role == "primary" else name
        detail = f"{spread(v.difference, sign='+')} | {v.adjusted:.3f} | {v.verdict}"
        lines.append(f"| {name} | {v.share:.0%} | {detail} |")
    return "\n".join(lines)


def _per_type(
    found: Found, accuracy: Accuracy, arms: Sequence[str], shares: Sequence[float], seeds: Sequence[int]
) -> str:
    lines = [f"| arm | share | {' | '.join(accuracy.types)} |\n|---|---|{'---|' * len(accuracy.types)}"]
    for arm in arms:
        for share in shares:
            means = np.mean([accuracy.per_type(found[arm, share, seed]["answers"]) for seed in seeds], axis=0)
            lines.append(f"| {arm} | {share:.0%} | {' | '.join(f'{value:.2f}' for value in means)} |")
    return "\n".join(lines)
