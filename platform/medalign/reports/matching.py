"""The picture of one matched graph: two views side by side, a line per match, and the affinities they came from."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from markupsafe import Markup
from numpy import ndarray
from PIL import Image

from medalign.reports.run_files import Matching

_CELL, _GAP, _SPAN = 48, 4, 420  # pixels: a thumbnail, the space between two, the space the lines cross
_THUMBNAIL = 96  # stored twice as large as drawn on a small screen, for sharp ones
_SQUARE = 16  # a cell of the affinity table


def draw_matching(found: Matching) -> Markup:
    """Return both views as columns of thumbnails joined by a line per match.

    A right match is a solid blue line; a wrong one is dashed, orange, and crossed in the middle: the difference does
    not rest on colour. Only numbers and pixels enter, no text of the user's.
    """
    nodes, pitch = len(found.matching), _CELL + _GAP
    width, height = 2 * _CELL + _SPAN, nodes * pitch - _GAP
    right = int((found.matching == np.arange(nodes)).sum())
    label = f"Two views of {nodes} images; {right} of {nodes} are matched with their own other view."
    parts = [f'<svg class="matching" role="img" aria-label="{label}" viewBox="-3 -3 {width + 6} {height + 6}">']
    parts += [_column(found.first, 0), _column(found.second, _CELL + _SPAN)]
    order = sorted(range(nodes), key=lambda i: found.matching[i] != i)  # wrong ones last, so that they lie on top
    parts += [_line(i, int(found.matching[i]), pitch) for i in order]
    return Markup("".join([*parts, "</svg>"]))


def draw_affinity(found: Matching) -> Markup:
    """Return the affinities as a table of squares, darker for larger, with the chosen entries ringed."""
    low, high = float(found.affinity.min()), float(found.affinity.max())
    share = (found.affinity - low) / (high - low) if high > low else np.zeros_like(found.affinity)
    size = len(found.matching) * _SQUARE
    label = f"Vertex affinities from {low:.2f} to {high:.2f}; one ringed entry per row."
    parts = [f'<svg class="affinity" role="img" aria-label="{label}" viewBox="-2 -2 {size + 4} {size + 4}">']
    for (i, a), value in np.ndenumerate(share):
        at = f'x="{a * _SQUARE}" y="{i * _SQUARE}" width="{_SQUARE - 1}" height="{_SQUARE - 1}"'
        parts.append(f'<rect {at} fill="var(--first)" fill-opacity="{0.05 + 0.9 * value:.2f}"/>')
    for i, a in enumerate(found.matching.tolist()):
        kind = "right" if i == a else "wrong"
        x, y = a * _SQUARE - 0.5, i * _SQUARE - 0.5
        parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{_SQUARE}" height="{_SQUARE}" rx="2" fill="none"/>')
    return Markup("".join([*parts, "</svg>"]))


def _column(images: ndarray, left: int) -> str:
    return "".join(
        f'<image x="{left}" y="{i * (_CELL + _GAP)}" width="{_CELL}" height="{_CELL}" href="{jpeg(image)}"'
        ' preserveAspectRatio="xMidYMid slice"/>'
        for i, image in enumerate(images)
    )


def _line(i: int, a: int, pitch: int) -> str:
    kind = "right" if i == a else "wrong"
    x1, x2 = _CELL + 3, _CELL + _SPAN - 3
    y1, y2 = i * pitch + _CELL / 2, a * pitch + _CELL / 2
    ends = f'<circle class="{kind}" cx="{x1}" cy="{y1}" r="2.5"/><circle class="{kind}" cx="{x2}" cy="{y2}" r="2.5"/>'
    line = f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
    if kind == "right":
        return line + ends
    boxes = "".join(
        f'<rect class="wrong" x="{x}" y="{row * pitch}" width="{_CELL}" height="{_CELL}" fill="none"/>'
        for x, row in ((0, i), (_CELL + _SPAN, a))
    )
    x, y = x1 + (x2 - x1) * 0.3, y1 + (y2 - y1) * 0.3  # off the middle, where crossing lines would share one place
    cross = f'<path class="cross" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>'
    return line + ends + boxes + cross


def jpeg(image: ndarray, side: int = _THUMBNAIL) -> str:
    """Return an image, at most `side` pixels wide and high, as the address of itself."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    sink = BytesIO()
    picture.save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(sink.getvalue()).decode()
