"""Which split a row belongs to: the official one, or one drawn by group, roughly stratified by class. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from medalign.errors import CorpusError

DEFAULT_FRACTIONS = {"val": 0.1, "test": 0.2}


def assign(
    groups: Sequence[str],
    labels: Sequence[str | None],
    official: Sequence[str | None],
    *,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    may_share: bool = False,
) -> list[str]:
    """Return the split of each row; no group is in two splits, unless the source's own splits have it so.

    Where the source has splits they are kept, and `fractions` may carve a split that the source lacks out of its
    train rows, by group. Elsewhere the groups are drawn (default: 10 % val, 20 % test).

    Args:
        groups: group of each row.
        labels: class of each row, or None: every class is spread over the splits in proportion.
        official: the source's split of each row, or None for all rows.
        fractions: share of the drawn rows of each split but train.
        seed: another seed draws other groups.
        may_share: keep official splits that share groups: published splits are what published figures stand on.

    Raises:
        CorpusError: fractions out of range or for a split that the source has; some rows with and some without an
            official split; a group in two official splits.
    """
    have = {split for split in official if split is not None}
    if have and None in official:
        missing = sum(split is None for split in official)
        raise CorpusError(f"{missing} of {len(official)} rows have no split while others have one; give all or none.")
    wanted = _checked(fractions if fractions is not None else ({} if have else DEFAULT_FRACTIONS))
    clash = sorted(have & set(wanted))
    if clash:
        raise CorpusError(
            f"the source has its own split {clash[0]!r}; leave it out of the fractions, or ignore the source's splits "
            "(official_splits=False)."
        )
    splits = [split or "train" for split in official]
    drawn = [i for i, split in enumerate(splits) if split == "train"]
    if wanted and drawn:
        chosen = _draw([groups[i] for i in drawn], [labels[i] for i in drawn], wanted, seed=seed)
        for i in drawn:
            splits[i] = chosen[groups[i]]
    if not may_share:
        check_disjoint(groups, splits)
    return splits


def shared(groups: Sequence[str], splits: Sequence[str]) -> dict[str, int]:
    """Return how many groups are in more than one split, by the splits' names."""
    seen: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        seen[group].add(split)
    torn = Counter(" and ".join(sorted(where)) for where in seen.values() if len(where) > 1)
    return dict(sorted(torn.items()))


def check_disjoint(groups: Sequence[str], splits: Sequence[str]) -> None:
    """Check that no group is in two splits.

    Raises:
        CorpusError: how many groups are, and in which splits.
    """
    torn = shared(groups, splits)
    if torn:
        detail = ", ".join(f"{count} in {where}" for where, count in torn.items())
        raise CorpusError(
            f"{sum(torn.values())} groups are in more than one split ({detail}): patients would leak; correct the"
            " groups, or draw the splits anew (official_splits=False)."
        )


def _checked(fractions: Mapping[str, float]) -> dict[str, float]:
    for split, share in fractions.items():
        if split not in ("val", "test"):
            raise CorpusError(f"fractions name {split!r}; they may name val and test, the rest is train.")
        if not 0 <= share < 1:
            raise CorpusError(f"the fraction of {split} must be in [0, 1), got {share}.")
    if sum(fractions.values()) >= 1:
        raise CorpusError(f"the fractions sum to {sum(fractions.values())}, nothing is left for train.")
    return {split: share for split, share in fractions.items() if share > 0}


def _draw(
    groups: Sequence[str], labels: Sequence[str | None], fractions: Mapping[str, float], *, seed: int
) -> dict[str, str]:
    """Deal the groups of each class, largest first, each to the split that it fills least beyond its share of rows.

    A class with as many groups as splits is in all of them: its last groups go to the splits that have none. Among
    groups of one size the order is that of a hash, so it depends on nothing but the group's name and the seed.
    """
    size = Counter(groups)
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        votes[group][label or ""] += 1
    by_class: dict[str, list[str]] = defaultdict(list)
    for group, count in votes.items():
        by_class[min(count, key=lambda label: (-count[label], label))].append(group)
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    chosen: dict[str, str] = {}
    for members in by_class.values():
        total = sum(size[group] for group in members)
        given = dict.fromkeys(shares, 0)
        ordered = sorted(members, key=lambda group: (-size[group], _rank(group, seed)))
        for left, group in zip(range(len(ordered), 0, -1), ordered, strict=True):
            empty = [split for split in shares if not given[split]]
            if left <= len(empty):
                split = min(empty, key=lambda s: (-shares[s], s))
            else:
                split = min(shares, key=lambda s: ((given[s] + size[group]) / (shares[s] * total), -shares[s], s))
            given[split] += size[group]
            chosen[group] = split
    return chosen


def _rank(group: str, seed: int) -> bytes:
    name = f"{seed}\x1f{group}" if seed else group
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
