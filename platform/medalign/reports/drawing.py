"""Matplotlib figures as inline SVG that takes its colours and its type from the page, in light and in dark."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for a variable of the page's style sheet until the figure is SVG.
INK, MUTED, GRID, FIRST, SECOND, BAND = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", FIRST: "first", SECOND: "second", BAND: "band"}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


class Canvas:
    """A figure with one pair of axes in the page's style, while its `with` block lasts; `svg` ends it."""

    def __init__(self, name: str, *, width: float = 3.4, height: float = 2.1) -> None:
        self.name, self._size = name, (width, height)
        self._style = rc_context({**_STYLE, "svg.hashsalt": name})

    def __enter__(self) -> Canvas:
        self._style.__enter__()
        self.figure = Figure(figsize=self._size, layout="constrained")
        self.axes: Axes = self.figure.subplots()
        return self

    def __exit__(self, *error: Any) -> None:
        self._style.__exit__(*error)

    def svg(self, description: str) -> Markup:
        """Return the figure as an SVG element that a screen reader reads as `description`."""
        text = StringIO()
        self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inline(text.getvalue(), self.name, description)


def _inline(text: str, name: str, description: str) -> Markup:
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font: \1 var(--type)", body)
    # Several figures stand in one page: every id, and every mention of one, gets the figure's name.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    label = Markup.escape(description)
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
