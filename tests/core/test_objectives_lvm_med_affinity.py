import numpy as np
import pytest
import torch

from medalign_core.objectives.lvm_med import affinity
from medalign_core.objectives.lvm_med.affinity import best_location_matches, local_affinity
from medalign_core.ops.location import location_grid


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps(nodes: int, rows: int, columns: int, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Cells and grids of two views of 2 graphs; both views crop and flip at random."""
    draws = torch.Generator().manual_seed(seed)
    shape = (2, nodes)
    cells = draw(*shape, rows * columns, 5, seed=seed), draw(*shape, rows * columns, 5, seed=seed + 1)
    boxes = [torch.rand(*shape, 4, generator=draws, dtype=torch.float64) for _ in range(2)]
    flipped = [torch.rand(*shape, generator=draws) < 0.5 for _ in range(2)]
    grids = [location_grid(b, f, rows=rows, columns=columns) for b, f in zip(boxes, flipped, strict=True)]
    return (*cells, *grids)


def local_reference(cells_s, cells_t, grid_s, grid_t, matches: int) -> float:
    """One direction s -> t of one pair of images by loops: place term plus feature term, each a mean over the best."""
    total = 0.0
    for side_s, side_t in ((grid_s, grid_t), (cells_s, cells_t)):
        found = []
        for p in range(len(cells_s)):
            distances = [float(np.sum((side_s[p] - side_t[q]) ** 2)) for q in range(len(cells_t))]
            q = int(np.argmin(distances))
            cosine = cells_s[p] @ cells_t[q] / (np.linalg.norm(cells_s[p]) * np.linalg.norm(cells_t[q]))
            found.append((distances[q], cosine))
        best = sorted(found)[: matches or len(found)]
        total += float(np.mean([cosine for _, cosine in best]))
    return total


@pytest.mark.parametrize("matches", [0, 4, 12])
def test_local_affinities_equal_a_loop_over_cells_on_maps_that_are_not_square(matches):
    parts = maps(3, 3, 4)
    table = local_affinity(*parts, matches=matches, reduction="sum")
    for g in range(2):
        for i in range(3):
            for a in range(3):
                cells_s, cells_t, grid_s, grid_t = (
                    part[g, node].numpy() for part, node in zip(parts, (i, a, i, a), strict=True)
                )
                ahead = local_reference(cells_s, cells_t, grid_s, grid_t, matches)
                back = local_reference(cells_t, cells_s, grid_t, grid_s, matches)
                assert table[g, i, a] == pytest.approx(ahead + back)


def test_keeping_all_cells_is_keeping_none_out():
    parts = maps(3, 2, 3)
    whole = local_affinity(*parts, matches=0, reduction="mean")
    torch.testing.assert_close(local_affinity(*parts, matches=6, reduction="mean"), whole)
    torch.testing.assert_close(local_affinity(*parts, matches=50, reduction="mean"), whole)
    assert (local_affinity(*parts, matches=2, reduction="mean") - whole).abs().max() > 0.01


def test_the_mean_is_a_quarter_of_the_sum_and_both_stay_in_range():
    parts = maps(4, 3, 3)
    total, mean = (local_affinity(*parts, matches=4, reduction=r) for r in ("sum", "mean"))
    torch.testing.assert_close(total / 4, mean)
    assert total.abs().max() <= 4
    assert mean.abs().max() <= 1


def test_identical_views_have_local_affinity_one_with_themselves():
    cells, _, grid, _ = maps(4, 3, 4)
    table = local_affinity(cells, cells, grid, grid, matches=5, reduction="mean")
    own = torch.diagonal(table, dim1=1, dim2=2)
    torch.testing.assert_close(own, torch.ones_like(own))
    assert (table < 1 - 1e-6).sum() == 2 * 4 * 3


@pytest.mark.parametrize("flipped", [False, True])
def test_one_landmark_seen_in_two_crops_is_matched_by_place(flipped):
    """An image of 8 columns with a feature each; view s shows columns 0-3, view t columns 2-5, mirrored or not."""
    features = torch.eye(8, dtype=torch.float64)
    columns = torch.tensor([5, 4, 3, 2] if flipped else [2, 3, 4, 5])
    cells_s, cells_t = features[:4][None, None], features[columns][None, None]
    boxes = torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.0, 0.25, 1.0, 0.5]], dtype=torch.float64)
    grid_s = location_grid(boxes[0], torch.tensor(False), rows=1, columns=4)[None, None]
    grid_t = location_grid(boxes[1], torch.tensor(flipped), rows=1, columns=4)[None, None]
    best = local_affinity(cells_s, cells_t, grid_s, grid_t, matches=2, reduction="mean")
    assert best.item() == pytest.approx(1.0)  # the two columns both views show, in both terms and directions
    everything = local_affinity(cells_s, cells_t, grid_s, grid_t, matches=0, reduction="mean")
    assert everything.item() == pytest.approx(0.5)
    cells, partners = best_location_matches(grid_s, grid_t, matches=2)
    assert cells[0, 0].tolist() == [2, 3]
    assert columns[partners[0, 0]].tolist() == [2, 3]


def test_swapping_the_views_transposes_the_local_affinity():
    cells_s, cells_t, grid_s, grid_t = maps(4, 3, 3)
    table = local_affinity(cells_s, cells_t, grid_s, grid_t, matches=4, reduction="mean")
    swapped = local_affinity(cells_t, cells_s, grid_t, grid_s, matches=4, reduction="mean")
    torch.testing.assert_close(swapped, table.transpose(1, 2))


def test_graphs_taken_in_turn_equal_graphs_taken_together(monkeypatch):
    parts = maps(3, 2, 2)
    together = local_affinity(*parts, matches=3, reduction="mean")
    monkeypatch.setattr(affinity, "TABLE_ELEMENTS", 1)
    torch.testing.assert_close(local_affinity(*parts, matches=3, reduction="mean"), together, rtol=0, atol=0)


def test_an_empty_cell_has_no_local_affinity_and_no_gradient():
    cells_s, cells_t, grid_s, grid_t = maps(2, 2, 2)
    cells_s[0, 0] = 0
    cells_s.requires_grad_()
    table = local_affinity(cells_s, cells_t, grid_s, grid_t, matches=0, reduction="mean")
    table.sum().backward()
    assert (table[0, 0] == 0).all()
    assert (cells_s.grad[0, 0] == 0).all()
    assert cells_s.grad.isfinite().all()


def test_local_affinities_have_the_right_gradient():
    cells_s, cells_t, grid_s, grid_t = maps(2, 2, 2, seed=3)
    leaves = cells_s.requires_grad_(), cells_t.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, t: local_affinity(s, t, grid_s, grid_t, matches=3, reduction="sum"), leaves
    )


def test_half_precision_maps_are_compared_in_single_precision():
    parts = maps(3, 2, 3)
    halved = [cells.to(torch.bfloat16) for cells in parts[:2]]
    grids = [grid.float() for grid in parts[2:]]
    table = local_affinity(*halved, *grids, matches=4, reduction="mean")
    expected = local_affinity(*(cells.float() for cells in halved), *grids, matches=4, reduction="mean")
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, expected, rtol=0, atol=0)
