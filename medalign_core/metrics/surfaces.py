"""Distances between the surfaces of two masks: the 95th percentile Hausdorff distance and the surface Dice (NSD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure


class SurfaceDistances(NamedTuple):
    """How far each surface element of one mask is from the other mask's surface, in the unit of the spacing."""

    from_truth: Float[ndarray, " T"]
    from_predicted: Float[ndarray, " P"]


def surface_distances(
    truth: Bool[ndarray, "*P"], predicted: Bool[ndarray, "*P"], *, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks of the same shape, of any dimension.

    The surface of a mask is its elements that touch the outside by a face; the border of the image is outside. An empty
    mask has none.

    Args:
        truth: the mask.
        predicted: the other one.
        spacing: the size of an element along each axis, e.g. in mm; 1 each if None.

    Raises:
        ValueError: shapes that differ, or a spacing of another length.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {truth.shape} and predicted {predicted.shape}; they must be alike.")
    if spacing is not None and len(spacing) != truth.ndim:
        raise ValueError(f"spacing must have {truth.ndim} values, one per axis, got {len(spacing)}.")
    if not truth.any() or not predicted.any():
        return SurfaceDistances(
            np.full(int(_surface(truth).sum()), np.inf), np.full(int(_surface(predicted).sum()), np.inf)
        )
    window = _around(truth | predicted)
    ours, theirs = _surface(truth[window]), _surface(predicted[window])
    to_theirs = distance_transform_edt(~theirs, sampling=spacing)
    to_ours = distance_transform_edt(~ours, sampling=spacing)
    return SurfaceDistances(to_theirs[ours], to_ours[theirs])


def hausdorff_95(distances: SurfaceDistances) -> float:
    """Return the larger of the two sides' 95th percentiles; NaN if a mask is empty, as there is no finite distance."""
    if not len(distances.from_truth) or not len(distances.from_predicted):
        return float("nan")
    return float(max(np.percentile(distances.from_truth, 95), np.percentile(distances.from_predicted, 95)))


def surface_dice(distances: SurfaceDistances, *, tolerance: float) -> float:
    """Return the share of both surfaces' elements that lie within `tolerance` of the other (Nikolov et al. 2021).

    0 if one mask is empty, NaN if both are.
    """
    near = sum(int((side <= tolerance).sum()) for side in distances)
    total = sum(len(side) for side in distances)
    return near / total if total else float("nan")


def _surface(mask: ndarray) -> ndarray:
    return mask & ~binary_erosion(mask, generate_binary_structure(mask.ndim, 1), border_value=0)


def _around(mask: ndarray) -> tuple[slice, ...]:
    """Return the smallest window that holds the mask: distances within it are those of the whole."""
    found = []
    for axis in range(mask.ndim):
        others = tuple(each for each in range(mask.ndim) if each != axis)
        there = np.flatnonzero(mask.any(axis=others))
        found.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(found)
