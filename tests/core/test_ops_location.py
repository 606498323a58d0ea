import pytest
import torch

from medalign_core.ops.location import location_grid

WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])
UPRIGHT, MIRRORED = torch.tensor(False), torch.tensor(True)


def test_the_whole_image_has_its_cells_at_their_centres_row_by_row():
    grid = location_grid(WHOLE, UPRIGHT, rows=2, columns=4)
    expected = [[r, c] for r in (0.25, 0.75) for c in (0.125, 0.375, 0.625, 0.875)]
    torch.testing.assert_close(grid, torch.tensor(expected))


def test_a_mirrored_view_has_its_columns_reversed_and_its_rows_not():
    upright = location_grid(WHOLE, UPRIGHT, rows=3, columns=4).reshape(3, 4, 2)
    mirrored = location_grid(WHOLE, MIRRORED, rows=3, columns=4).reshape(3, 4, 2)
    torch.testing.assert_close(mirrored, upright.flip(1))


def test_a_crop_maps_to_its_place_in_the_source():
    box = torch.tensor([0.25, 0.5, 0.5, 0.25])  # top, left, height, width
    grid = location_grid(box, UPRIGHT, rows=1, columns=2)
    torch.testing.assert_close(grid, torch.tensor([[0.5, 0.5625], [0.5, 0.6875]]))


@pytest.mark.parametrize("flipped", [UPRIGHT, MIRRORED])
def test_a_landmark_seen_in_two_crops_has_one_location(flipped):
    # the left half and the right 3/4 of one image, 8 columns wide: columns 2 and 3 are in both
    left = location_grid(torch.tensor([0.0, 0.0, 1.0, 0.5]), UPRIGHT, rows=1, columns=4)
    right = location_grid(torch.tensor([0.0, 0.25, 1.0, 0.75]), flipped, rows=1, columns=6)
    distance = torch.cdist(left, right)
    pairs = (distance < 1e-6).nonzero().tolist()
    assert pairs == ([[2, 5], [3, 4]] if flipped else [[2, 0], [3, 1]])


def test_batched_grids_equal_single_ones():
    draws = torch.Generator().manual_seed(0)
    boxes, flipped = torch.rand(2, 3, 4, generator=draws), torch.rand(2, 3, generator=draws) < 0.5
    grid = location_grid(boxes, flipped, rows=3, columns=2)
    assert grid.shape == (2, 3, 6, 2)
    for v in range(2):
        for b in range(3):
            torch.testing.assert_close(grid[v, b], location_grid(boxes[v, b], flipped[v, b], rows=3, columns=2))


def test_an_empty_map_raises():
    with pytest.raises(ValueError, match="rows and columns must be >= 1, got 0 x 4"):
        location_grid(WHOLE, UPRIGHT, rows=0, columns=4)
