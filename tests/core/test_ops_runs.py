"""Runs of sequences of like length: the order, where they end, and what they cost beside every other cut."""

from itertools import combinations, pairwise

import pytest

from medalign_core.ops.runs import runs_of_like_length


def cost(lengths, order, ends, start):
    return sum((end - begin) * lengths[order[end - 1]] + start for begin, end in pairwise([0, *ends]))


def test_a_long_sequence_stands_apart_where_padding_costs_more_than_a_run():
    order, ends = runs_of_like_length([9, 30, 9, 10, 9], most=100, start=4)
    assert order == [0, 2, 4, 3, 1]
    assert ends == [4, 5]  # 4 * 10 + 4 + 30 + 4 = 78, against 5 * 30 + 4


def test_one_run_where_a_run_costs_more_than_padding():
    assert runs_of_like_length([9, 30, 9], most=100, start=100)[1] == [3]


@pytest.mark.parametrize("start", [0, 3, 20])
def test_no_other_cut_costs_less(start):
    lengths = [5, 9, 7, 5, 12, 7, 9, 5]
    order, ends = runs_of_like_length(lengths, most=100, start=start)
    every = [[*cut, 8] for size in range(8) for cut in combinations(range(1, 8), size)]
    assert cost(lengths, order, ends, start) == min(cost(lengths, order, cut, start) for cut in every)


def test_no_run_holds_more_than_its_most():
    order, ends = runs_of_like_length([4] * 7 + [6] * 2, most=3, start=0)
    assert ends == [3, 6, 7, 9]
    assert sorted(order) == list(range(9))


@pytest.mark.parametrize(("lengths", "most"), [([], 3), ([1], 0)])
def test_nothing_to_cut_is_refused(lengths, most):
    with pytest.raises(ValueError, match="there must be sequences"):
        runs_of_like_length(lengths, most=most, start=0)
