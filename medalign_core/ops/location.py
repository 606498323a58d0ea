"""Where in the source image each cell of a view's feature map lies."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def location_grid(
    boxes: Float[Tensor, "*S 4"], flipped: Bool[Tensor, "*S"], *, rows: int, columns: int
) -> Float[Tensor, "*S P 2"]:
    """Return the centre (row, column) of every feature cell, in [0, 1] of the source image's height and width.

    Cell (r, c) of an R x S map over the crop (top, left, height, width) has its centre at
    (top + height * (r + 1/2) / R, left + width * (c + 1/2) / S); in a mirrored view c counts from the right edge of
    the crop. Relative coordinates make the distances between cells of *different* images meaningful.

    Args:
        boxes: the crop each view shows, (top, left, height, width) in [0, 1].
        flipped: True where the view was mirrored left to right after the crop.
        rows: R, the map's height.
        columns: S, the map's width.

    Returns:
        P = R * S centres, row by row from the top left cell of the *view*.

    Raises:
        ValueError: `rows` or `columns` < 1.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows and columns must be >= 1, got {rows} x {columns}.")
    top, left, height, width = (side[..., None] for side in boxes.unbind(dim=-1))  # each (*S, 1)
    down = (torch.arange(rows, dtype=boxes.dtype, device=boxes.device) + 0.5) / rows
    across = (torch.arange(columns, dtype=boxes.dtype, device=boxes.device) + 0.5) / columns
    across = torch.where(flipped[..., None], 1.0 - across, across)  # (*S, columns)
    row = (top + height * down)[..., :, None]
    column = (left + width * across)[..., None, :]
    grid = torch.stack(torch.broadcast_tensors(row, column), dim=-1)  # (*S, R, S, 2)
    return grid.flatten(-3, -2)
