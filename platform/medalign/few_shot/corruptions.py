"""Test images made harder by a known amount: patches of foreign images pasted in, or a part of the image alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from medalign_core.ops.draws import draw_seed

CELLS = 8  # patches per side of an image


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """What is done to each test image of a task; a method never trains on such images.

    Attributes:
        kind: "patches" pastes patches of foreign images over a share of the image's area, "crop" keeps a square of a
            share of it, enlarged to the whole.
        share: of the area, in (0, 1): what is pasted over, or what is kept.
        foreign: the corpus whose test images give patches.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    kind: Literal["patches", "crop"]
    share: float
    foreign: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be in (0, 1), got {self.share}.")
        if (self.kind == "patches") != bool(self.foreign):
            raise ValueError(f"foreign names the corpus of patches, and is for them alone, got {self.foreign!r}.")

    @property
    def name(self) -> str:
        """What its tests are called, behind the name of the test."""
        return f"{self.kind} {self.share:.2f}"


def corrupt(
    image: UInt8[ndarray, "3 S S"],
    corruption: Corruption,
    foreign: Sequence[UInt8[ndarray, "3 S S"]],
    *,
    key: tuple[int | str, ...],
) -> UInt8[ndarray, "3 S S"]:
    """Return the image as a corruption leaves it.

    Args:
        image: as the encoder is given it.
        corruption: what is done.
        foreign: images of the same size that patches come from; one of them gives all patches of an image.
        key: what is random is drawn by.
    """
    draws = np.random.default_rng(draw_seed(*key, corruption.kind))
    if corruption.kind == "crop":
        return _cropped(image, corruption.share, draws)
    other = foreign[int(draws.integers(len(foreign)))]
    return _pasted(image, other, corruption.share, draws)


def _pasted(image: ndarray, other: ndarray, share: float, draws: np.random.Generator) -> ndarray:
    """Replace the nearest number of cells by those of the other image at the same places."""
    chosen = np.zeros(CELLS * CELLS, dtype=bool)
    chosen[draws.permutation(CELLS * CELLS)[: round(share * CELLS * CELLS)]] = True
    size = image.shape[1]
    cell = np.arange(size) * CELLS // size
    covered = chosen.reshape(CELLS, CELLS)[cell[:, None], cell[None]]  # (S, S)
    return np.where(covered, other, image)


def _cropped(image: ndarray, share: float, draws: np.random.Generator) -> ndarray:
    from PIL import Image

    size = image.shape[1]
    side = max(1, round(size * math.sqrt(share)))
    top, left = draws.integers(0, size - side + 1, size=2)
    part = Image.fromarray(image[:, top : top + side, left : left + side].transpose(1, 2, 0))
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
