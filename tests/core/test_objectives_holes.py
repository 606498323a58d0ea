import torch

from medalign_core.objectives.holes import stand_ins


def test_valid_rows_stand_for_themselves():
    assert stand_ins(torch.ones(5, dtype=torch.bool)).tolist() == [0, 1, 2, 3, 4]


def test_holes_are_filled_by_valid_rows_in_turn():
    valid = torch.tensor([False, True, False, True, False, False])
    assert stand_ins(valid).tolist() == [1, 1, 3, 3, 1, 3]


def test_without_a_valid_row_each_stands_for_itself():
    assert stand_ins(torch.zeros(3, dtype=torch.bool)).tolist() == [0, 1, 2]
