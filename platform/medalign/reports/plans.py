"""write_plans(explanation, uri): one self-contained HTML page of what a few-shot method's transport does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from medalign import storage
from medalign.few_shot.explaining import Explanation, Seen
from medalign.reports.drawing import FIRST, MUTED, SECOND, Canvas
from medalign.reports.matching import jpeg

_CELL, _GAP, _TEXT = 112, 10, 17  # pixels: a picture, the space between two, the line below it
_PANELS = (
    ("plan_entropy", "Plan entropy", "Over log(M N); 1 is uniform: the transport does nothing."),
    ("plan_gain", "Gain", "⟨T, S⟩ − mean S in cosines: what the plan adds to mean pooling."),
    ("prompt_mass", "Prompt shares", "The least and the most used prompt's share of the mass."),
)


def write_plans(found: Explanation, uri: str) -> None:
    """Write the page. It holds everything it shows: no script, no address outside itself.

    Raises:
        StorageError: the place cannot be written.
    """
    storage.write_bytes(uri, render(found).encode())


def render(found: Explanation) -> str:
    """Return the page as HTML. Names and sentences are escaped."""
    environment = Environment(
        loader=PackageLoader("medalign.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    peak = max(plan.max() for seen in found.images.values() for one in seen for plan in one.plans.values())
    return environment.get_template("plans.html.j2").render(
        cell=found.cell,
        test=found.test,
        peak=float(peak),
        last=found.health[-1] if found.health else {},
        curves=_curves(found.health),
        classes=[
            {
                "name": name,
                "sentences": found.sentences.get(name, ()),
                "rows": [
                    {"svg": _row(one, f"{place}-{number}", peak=float(peak)), "predicted": one.predicted}
                    for number, one in enumerate(seen)
                ],
            }
            for place, (name, seen) in enumerate(found.images.items())
        ],
    )


def _row(seen: Seen, name: str, *, peak: float) -> Markup:
    """Draw an image, and once more for each prompt with its plan over it; stronger is more mass."""
    maps = [
        (f"{'prompt' if measure == 'union' else measure} {n + 1}", plan, seen.marginals[measure][n])
        for measure, plans in seen.plans.items()
        for n, plan in enumerate(plans)
    ]
    pitch = _CELL + _GAP
    width, height = pitch * (len(maps) + 1) - _GAP, _CELL + 2 * _TEXT
    said = ", ".join(f"{label} takes {share:.0%}" for label, _, share in maps)
    parts = [f'<svg class="plans" role="img" aria-label="{said}" viewBox="0 0 {width} {height}" width="{width}">']
    parts.append(
        f'<defs><image id="i{name}" width="{_CELL}" height="{_CELL}" href="{jpeg(seen.pixels, 2 * _CELL)}"/></defs>'
        f'<use href="#i{name}"/>'
    )
    for place, (label, plan, share) in enumerate(maps, 1):
        parts.append(f'<g transform="translate({place * pitch} 0)"><use href="#i{name}" opacity="0.45"/>')
        side = _CELL / len(plan)
        for (y, x), value in np.ndenumerate(plan):
            strength = 0.7 * min(1.0, value / peak)
            if strength > 0.02:
                at = f'x="{x * side:.1f}" y="{y * side:.1f}" width="{side:.1f}" height="{side:.1f}"'
                parts.append(f'<rect {at} fill="var(--second)" fill-opacity="{strength:.2f}"/>')
        parts.append(f'<text x="0" y="{_CELL + _TEXT - 3}">{label}</text>')
        parts.append(f'<text class="share" x="0" y="{_CELL + 2 * _TEXT - 4}">{share:.0%} of the mass</text></g>')
    return Markup("".join([*parts, "</svg>"]))


def _curves(health: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Return a figure per quantity, a line per measure."""
    if not health:
        return []
    found = []
    epochs = [line["epoch"] + 1 for line in health]
    for key, title, caption in _PANELS:
        names = [name for name in health[0] if name.rpartition("/")[2].startswith(key)]
        with Canvas(f"plans-{key.replace('_', '-')}") as canvas:
            for place, name in enumerate(names):
                values = [line[name] for line in health]
                colour = (FIRST, SECOND, MUTED)[place % 3]
                label = name.replace("prompt_mass_", "").replace(f"{key}", "").strip("/").replace("/", ", ")
                canvas.axes.plot(epochs, values, color=colour, marker="o", markersize=2.5, label=label)
            if key != "plan_gain":
                canvas.axes.set_ylim(0, 1.03)
            canvas.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            canvas.axes.set_xlabel("epoch")
            if len(names) > 1:
                canvas.axes.legend(loc="best")
            last = ", ".join(f"{name} {health[-1][name]:.3g}" for name in names)
            found.append({"title": title, "caption": caption, "svg": canvas.svg(f"{title}; at the end {last}.")})
    return found
