"""Whether two pictures show the same: a hash that resizing, cropping and greying hardly change, and a check. Pure.

The hash finds candidates, the check decides. Of each picture the hash of the whole is compared with the hashes of
windows of the other, since a crop of it is one; then the window is moved until the two agree best, and the
correlation of their grey levels is the score. Medical pictures of one kind look alike, so a hash alone says little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from scipy.fft import dctn

SIDE = 64  # of the thumbnails that are compared
_FREQUENCIES = 16
WINDOWS = tuple(  # (left, top, right, bottom) as shares: the whole, and squares of 95 % and 90 % of a side
    [(0.0, 0.0, 1.0, 1.0)]
    + [
        (left, top, left + side, top + side)
        for side in (0.95, 0.9)
        for left in np.linspace(0, 1 - side, 3)
        for top in np.linspace(0, 1 - side, 3)
    ]
)
_STEPS = (0.04, 0.02, 0.01, 0.005)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """What is kept of N pictures.

    Attributes:
        thumbnails: (N, 64, 64) grey levels.
        whole: (N, 32) the hash of each, 256 bits.
        windows: (N, W, 32) the hashes of its windows, the whole first.
    """

    thumbnails: UInt8[ndarray, "N S S"]
    whole: UInt8[ndarray, "N 32"]
    windows: UInt8[ndarray, "N W 32"]


def thumbnail(image: Image.Image) -> UInt8[ndarray, "S S"]:
    """Return a picture as 64 x 64 grey levels, its sides stretched alike."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0))


def fingerprint(thumbnails: UInt8[ndarray, "N S S"]) -> Fingerprints:
    """Return the hashes of thumbnails and of their windows."""
    windows = np.stack([_hash(_cut(thumbnails, window)) for window in WINDOWS], axis=1)
    return Fingerprints(thumbnails=thumbnails, whole=windows[:, 0], windows=windows)


def candidates(first: Fingerprints, second: Fingerprints, *, most_bits: int, chunk: int = 256) -> ndarray:
    """Return the pairs (i, j) of which one's hash differs in few bits from that of a window of the other."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for low in range(0, len(first.whole), chunk):
        part = slice(low, low + chunk)
        away = np.minimum(
            _nearest(first.whole[part], second.windows), _nearest(second.whole, first.windows[part]).T
        )  # (chunk, M)
        i, j = np.nonzero(away <= most_bits)
        found.append(np.stack([i + low, j], axis=1))
    return np.concatenate(found)


def agreement(first: UInt8[ndarray, "S S"], second: UInt8[ndarray, "S S"]) -> float:
    """Return the correlation of two thumbnails' grey levels, in [-1, 1], one of them cut to the window that fits best.

    The window is found by steps from each of `WINDOWS`'s best, on either side. Constant pictures agree with nothing.
    """
    return max(_best(first, second), _best(second, first))


def _best(whole: ndarray, part: ndarray) -> float:
    scores = [_correlation(_cut(whole[None], window)[0], part) for window in WINDOWS]
    at = int(np.argmax(scores))
    window, score = WINDOWS[at], scores[at]
    for step in _STEPS:
        for _ in range(8):
            moved = [
                tuple(edge + (step * sign if place == edge_ else 0.0) for place, edge in enumerate(window))
                for edge_ in range(4)
                for sign in (-1, 1)
            ]
            inside = [w for w in moved if min(w) >= 0 and max(w) <= 1 and w[2] - w[0] > 0.8 and w[3] - w[1] > 0.8]
            tried = [(_correlation(_cut(whole[None], w)[0], part), w) for w in inside]
            better = max(tried, default=(score, window))
            if better[0] <= score + 1e-6:
                break
            score, window = better  # type: ignore[assignment]
    return score


def _cut(thumbnails: ndarray, window: tuple[float, ...]) -> Float[ndarray, "N S S"]:
    """Return the window of each thumbnail, stretched to the whole size, by bilinear interpolation."""
    left, top, right, bottom = window
    columns = _places(left, right)
    rows = _places(top, bottom)
    held = thumbnails.astype(np.float32)
    return _along(_along(held, rows, axis=1), columns, axis=2)


def _places(low: float, high: float) -> ndarray:
    return ((low + (np.arange(SIDE) + 0.5) / SIDE * (high - low)) * SIDE - 0.5).clip(0, SIDE - 1)


def _along(values: ndarray, places: ndarray, *, axis: int) -> ndarray:
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, SIDE - 1)
    share = (places - below).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = SIDE
    share = share.reshape(shape)
    return values.take(below, axis) * (1 - share) + values.take(above, axis) * share


def _hash(pictures: ndarray) -> UInt8[ndarray, "N 32"]:
    """Return whether each of the 16 x 16 lowest frequencies is above their median, as bits; the mean does not count."""
    waves = dctn(pictures, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES].reshape(-1, _FREQUENCIES**2)
    waves[:, 0] = 0
    return np.packbits(waves > np.median(waves[:, 1:], axis=1, keepdims=True), axis=1)


def _nearest(hashes: ndarray, windows: ndarray) -> ndarray:
    """Return (N, M) the fewest bits that a hash (N, 32) differs in from any window's (M, W, 32)."""
    ours = np.ascontiguousarray(hashes).view(np.uint64)  # (N, 4)
    theirs = np.ascontiguousarray(windows).view(np.uint64)  # (M, W, 4)
    best = np.full((len(ours), len(theirs)), 256, dtype=np.uint16)
    for window in range(theirs.shape[1]):
        bits = np.bitwise_count(ours[:, None] ^ theirs[None, :, window]).sum(-1, dtype=np.uint16)
        np.minimum(best, bits, out=best)
    return best


def _correlation(first: ndarray, second: ndarray) -> float:
    one, other = first - first.mean(), second.astype(np.float32) - second.mean()
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / scale if scale > 1e-6 else -1.0
