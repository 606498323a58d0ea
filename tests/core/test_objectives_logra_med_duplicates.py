import itertools

import torch

from medalign_core.objectives.logra_med.duplicates import duplicate_rate, first_of_kind


def test_the_first_of_each_image_and_of_each_answer_is_kept():
    images, answers = torch.tensor([1, 2, 1, 3, 4, 5]), torch.tensor([7, 8, 9, 8, 6, 7])
    kept = first_of_kind(torch.ones(6, dtype=torch.bool), images, answers)
    assert kept.tolist() == [True, True, False, False, True, False]
    assert duplicate_rate(torch.ones(6, dtype=torch.bool), kept) == 0.5


def test_what_is_not_kept_excludes_nobody():
    images, answers = torch.tensor([1, 1, 2]), torch.tensor([5, 6, 6])
    assert first_of_kind(torch.ones(3, dtype=torch.bool), images, answers).tolist() == [True, False, True]
    holed = torch.tensor([False, True, True])
    assert first_of_kind(holed, images, answers).tolist() == [False, True, False]
    assert duplicate_rate(holed, first_of_kind(holed, images, answers)) == 0.5


def test_unknown_ids_are_shared_with_nobody():
    unknown = torch.tensor([-1, -1, -1])
    assert first_of_kind(torch.ones(3, dtype=torch.bool), unknown, unknown).all()
    assert duplicate_rate(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) == 0


def test_kept_rows_differ_and_no_row_could_be_added():
    draws = torch.Generator().manual_seed(0)
    for _ in range(50):
        images, answers = (torch.randint(-1, 6, (12,), generator=draws) for _ in range(2))
        valid = torch.rand(12, generator=draws) < 0.8
        kept = first_of_kind(valid, images, answers)

        def clash(i: int, j: int, images=images, answers=answers) -> bool:
            return any(ids[i] == ids[j] and ids[i] >= 0 for ids in (images, answers))

        rows = kept.nonzero()[:, 0].tolist()
        assert not any(clash(i, j) for i, j in itertools.combinations(rows, 2))
        left_out = (valid & ~kept).nonzero()[:, 0].tolist()
        assert all(any(clash(i, j) for j in rows) for i in left_out)
