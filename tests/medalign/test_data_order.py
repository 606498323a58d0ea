"""The order of samples: exactly once, whatever the world, O(1) to seek, well shuffled, never silently another."""

import time

import numpy as np
import pytest

from medalign.data.order import Order, Slot, Window, permutation
from medalign.errors import PlanError

GROUPS = (8, 8, 4, 8, 8, 4, 8, 8, 4, 7)  # 67 rows


def order(**keys: object) -> Order:
    settings = {"seed": 5, "row_groups": GROUPS, "micro_batch": 4, "global_batch": 12, "shuffle_rows": 24}
    return Order(**(settings | keys))


def test_an_epoch_shows_each_row_at_most_once_and_all_but_a_part_of_a_step() -> None:
    seen = order()
    assert (seen.rows, seen.steps_per_epoch, seen.micro_batches, seen.window_steps) == (67, 5, 3, 2)
    for epoch in range(6):
        rows = np.concatenate([seen.step_rows(epoch * 5 + step) for step in range(5)])
        assert len(rows) == len(set(rows.tolist())) == 60
        assert set(rows.tolist()) <= set(range(67))


def test_the_rows_left_over_differ_between_epochs_so_every_row_is_seen() -> None:
    seen = order()
    left = [set(range(67)) - {r for s in range(5) for r in seen.step_rows(e * 5 + s).tolist()} for e in range(8)]
    assert all(len(rest) == 7 for rest in left)
    assert set.intersection(*left) == set()


def test_epochs_have_orders_of_their_own_and_so_have_seeds() -> None:
    first, again, other = order(), order(), order(seed=6)
    assert np.array_equal(first.step_rows(2), again.step_rows(2))
    assert not np.array_equal(first.step_rows(2), first.step_rows(7))
    assert not np.array_equal(first.step_rows(2), other.step_rows(2))


def test_a_step_does_not_depend_on_what_was_read_before() -> None:
    forward = [order().step_rows(step).tolist() for step in range(30)]
    backward = order()
    found = {step: backward.step_rows(step).tolist() for step in reversed(range(30))}
    assert [found[step] for step in range(30)] == forward


def test_seeking_far_costs_no_more_than_seeking_near() -> None:
    large = order(row_groups=(512,) * 2000, micro_batch=64, global_batch=512, shuffle_rows=4096)

    def seconds(step: int) -> float:
        since = time.perf_counter()
        large.step_rows(step)
        return time.perf_counter() - since

    near = min(seconds(step) for step in range(1, 101, 20))
    far = min(seconds(step) for step in range(10_000_000, 10_000_100, 20))
    assert far < 5 * near + 0.01
    assert far < 0.1


def test_windows_cover_any_range_without_gap_or_overlap() -> None:
    seen = order()
    for start in range(12):
        for stop in range(start, 14):
            windows = seen.windows(start, stop)
            assert [s for w in windows for s in range(w.start, w.stop)] == list(range(start, stop))
            assert all({seen.epoch_of(s) for s in range(w.start, w.stop)} == {w.epoch} for w in windows)
    assert seen.windows(1, 8) == [Window(0, 1, 2), Window(0, 2, 4), Window(0, 4, 5), Window(1, 5, 7), Window(1, 7, 8)]


def test_a_window_permutes_whole_row_groups_together() -> None:
    wide = order(shuffle_rows=60)
    lines = [wide.step_rows(step) for step in range(5)]
    assert wide.window_steps == 5
    assert all(len(np.unique(np.searchsorted(np.cumsum(GROUPS), rows, side="right"))) >= 5 for rows in lines)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 6, 7])
def test_slots_deal_every_micro_batch_once_and_pad_the_last_turn(world: int) -> None:
    slots = order(global_batch=28).slots(9, world)
    assert len(slots) == -(-7 // world) * world
    assert [s.index for s in slots if not s.padding] == list(range(7))
    assert all(s.padding == (s.index >= 7) and s.step == 9 for s in slots)
    assert [slots[rank::world][0] for rank in range(world)] == [Slot(9, rank, False) for rank in range(world)]


def test_more_workers_than_micro_batches_are_refused_with_the_way_out() -> None:
    with pytest.raises(PlanError, match=r"train.workers=4 exceeds the 3 micro-batches of a step; lower it or raise"):
        order().slots(0, 4)


def test_batches_that_do_not_divide_and_small_corpora_are_refused() -> None:
    with pytest.raises(PlanError, match=r"train.global_batch=10 is not a multiple of train.micro_batch=4"):
        order(global_batch=10)
    with pytest.raises(PlanError, match="67 rows, fewer than one step of train.global_batch=68"):
        order(global_batch=68)


def test_rows_travel_as_far_as_a_perfect_shuffle_would_send_them() -> None:
    # a corpus sorted by class: 64 row groups of 32; a uniform permutation moves a row by a third of the line on average
    shuffled = order(row_groups=(32,) * 64, micro_batch=32, global_batch=128, shuffle_rows=512)
    line = np.concatenate([shuffled.step_rows(step) for step in range(16)])
    moved = np.abs(line - np.arange(len(line))).mean() / len(line)
    assert 0.28 < moved < 0.39
    # within one window (a quarter of the line, 16 row groups) no row stays near its neighbours
    together = np.abs(np.diff(line[:512])).mean() / len(line)
    assert together > 0.2
    # each step of 128 mixes almost all of its window's 16 row groups
    assert min(len(np.unique(line[at : at + 128] // 32)) for at in range(0, 2048, 128)) >= 14


def test_the_order_is_what_it_always_was() -> None:
    # Changing these arrays changes what every resumed run sees: raise the checkpoint's schema version if you must.
    assert permutation(10, 5, "window", 0, 0).tolist() == GOLDEN_PERMUTATION
    assert order().step_rows(0).tolist() == GOLDEN_FIRST
    assert order().step_rows(13).tolist() == GOLDEN_LATER


GOLDEN_PERMUTATION = [3, 5, 8, 7, 9, 1, 2, 0, 4, 6]
GOLDEN_FIRST = [6, 0, 19, 35, 29, 7, 32, 31, 34, 1, 33, 50]
GOLDEN_LATER = [15, 16, 9, 12, 43, 24, 40, 42, 17, 25, 18, 11]
