"""Lesion-wise detection by a mask: connected components of the truth that are found, and false ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from scipy.ndimage import generate_binary_structure, label


class LesionCounts(NamedTuple):
    """How many lesions of the truth were found and missed, and how many predicted ones are false."""

    found: int
    missed: int
    false: int


def count_lesions(
    truth: Bool[ndarray, "*P"], predicted: Bool[ndarray, "*P"], *, least_overlap: float = 0.1
) -> LesionCounts:
    """Return the counts over the connected components of two masks, of any dimension; diagonal neighbours connect.

    A lesion is found if at least `least_overlap` of its elements are predicted, in whatever pieces. A predicted
    component is false if less than that share of its own elements lies in a lesion of any kind.

    Raises:
        ValueError: shapes that differ, or an overlap outside (0, 1].
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth is {truth.shape} and predicted {predicted.shape}; they must be alike.")
    if not 0 < least_overlap <= 1:
        raise ValueError(f"least_overlap must lie in (0, 1], got {least_overlap}.")
    covered = _shares(truth, predicted)
    right = _shares(predicted, truth)
    found = int((covered >= least_overlap).sum())
    return LesionCounts(found=found, missed=len(covered) - found, false=int((right < least_overlap).sum()))


def _shares(mask: ndarray, other: ndarray) -> ndarray:
    """Return for each component of `mask` the share of it that `other` covers."""
    numbers, count = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    if not count:
        return np.zeros(0)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    covered = np.bincount(numbers[other].ravel(), minlength=count + 1)[1:]
    return covered / sizes
