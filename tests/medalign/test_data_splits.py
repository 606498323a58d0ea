"""Splits: by group, in proportion within every class, and never a group in two."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from medalign.data.splits import assign, check_disjoint
from medalign.errors import CorpusError


def _patients(counts: dict[str, int], *, images: int = 3) -> tuple[list[str], list[str]]:
    pairs = [
        (f"{label}-{patient}", label) for label, n in counts.items() for patient in range(n) for _ in range(images)
    ]
    return [group for group, _ in pairs], [label for _, label in pairs]


def _where(groups: list[str], splits: list[str]) -> dict[str, set[str]]:
    seen = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        seen[group].add(split)
    return seen


def test_every_class_is_dealt_in_proportion_and_no_group_is_torn():
    groups, labels = _patients({"a": 200, "b": 40})
    splits = assign(groups, labels, [None] * len(groups))
    assert all(len(where) == 1 for where in _where(groups, splits).values())
    for label, total in Counter(labels).items():
        have = Counter(split for split, own in zip(splits, labels, strict=True) if own == label)
        assert {split: round(count / total, 2) for split, count in have.items()} == {
            "train": 0.7,
            "val": 0.1,
            "test": 0.2,
        }


def test_unequal_groups_fill_the_fractions_by_rows():
    draw = np.random.default_rng(0)
    groups = [f"p{patient}" for patient in range(300) for _ in range(draw.integers(1, 12))]
    splits = assign(groups, [None] * len(groups), [None] * len(groups), fractions={"val": 0.25, "test": 0.25})
    have = Counter(splits)
    assert abs(have["val"] / len(groups) - 0.25) < 0.01
    assert abs(have["test"] / len(groups) - 0.25) < 0.01
    sizes = Counter(groups)
    mean = {
        split: np.mean([sizes[group] for group, where in _where(groups, splits).items() if split in where])
        for split in have
    }
    assert max(mean.values()) / min(mean.values()) < 1.25  # large groups are not all in one split


@pytest.mark.parametrize("sizes", [(50, 1, 1), (5, 5, 5), (9, 8, 7, 1)])
def test_a_class_of_three_groups_is_in_every_split(sizes):
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)] + ["solo", "p1", "p2"]
    labels = ["a"] * sum(sizes) + ["b", "c", "c"]
    splits = assign(groups, labels, [None] * len(groups))
    by_class = defaultdict(set)
    for label, split in zip(labels, splits, strict=True):
        by_class[label].add(split)
    assert by_class == {"a": {"train", "val", "test"}, "b": {"train"}, "c": {"train", "test"}}


def test_the_draw_does_not_depend_on_the_order_of_rows():
    groups, labels = _patients({"a": 30, "b": 9})
    straight = dict(zip(groups, assign(groups, labels, [None] * len(groups)), strict=True))
    order = np.random.default_rng(1).permutation(len(groups))
    mixed = [groups[i] for i in order]
    again = assign(mixed, [labels[i] for i in order], [None] * len(groups))
    assert dict(zip(mixed, again, strict=True)) == straight


def test_official_splits_are_kept_and_val_is_carved_out_of_train():
    groups, labels = _patients({"a": 40}, images=2)
    official = ["test" if i >= 60 else "train" for i in range(len(groups))]
    assert assign(groups, labels, official) == official
    carved = assign(groups, labels, official, fractions={"val": 0.2})
    assert [split == "test" for split in carved] == [split == "test" for split in official]
    assert Counter(carved) == {"train": 48, "val": 12, "test": 20}


def test_what_cannot_be_split_is_refused_with_the_way_out():
    with pytest.raises(
        CorpusError, match="1 groups are in more than one split .1 in test and train.*official_splits=False"
    ):
        assign(["p", "p"], [None, None], ["train", "test"])
    with pytest.raises(CorpusError, match="its own split 'test'"):
        assign(["p", "q"], [None, None], ["train", "test"], fractions={"test": 0.5})
    with pytest.raises(CorpusError, match="1 of 2 rows have no split"):
        assign(["p", "q"], [None, None], ["train", None])
    with pytest.raises(CorpusError, match="nothing is left for train"):
        assign(["p"], [None], [None], fractions={"val": 0.5, "test": 0.5})
    with pytest.raises(CorpusError, match="may name val and test"):
        assign(["p"], [None], [None], fractions={"dev": 0.5})
    with pytest.raises(CorpusError, match=r"\[0, 1\), got -0.1"):
        assign(["p"], [None], [None], fractions={"val": -0.1})
    check_disjoint(["p", "p", "q"], ["val", "val", "train"])
