"""Few-shot couplings on harder test images: runs the stress recipe, prints its tables and draws them.

python bench/few_shot_stress.py --data FOLDER [--write docs/results.md] [--picture docs/pictures/few_shot_stress.png]
                                [key=value ...]

FOLDER is that of bench/few_shot.py. What was run before is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from few_shot import prepare_all, write_between
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medalign.cluster import ensure_ray
from medalign.few_shot import few_shot, open_comparison
from medalign.few_shot.settings import FewShot
from medalign.few_shot.strengths import Strength, along_strengths, markdown

RECIPE = "few_shot/stress"
PANELS = {"patches": "share of the area pasted over", "crop": "share of the area that is left"}


def main() -> None:
    """Prepare, run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replaces the text between the recipe's markers")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    ensure_ray()
    prepare_all(arguments.data)
    began, recipe = time.perf_counter(), open_comparison(RECIPE, arguments.overrides)
    few_shot(recipe, progress=lambda line: print(line, flush=True))
    found = along_strengths(recipe)
    table = markdown(recipe, found)
    print(f"\n{time.perf_counter() - began:.0f} s\n\n{table}", flush=True)
    if arguments.write:
        write_between(arguments.write, RECIPE, table)
    if arguments.picture:
        draw(recipe, found, arguments.picture)


def draw(recipe: FewShot, found: Sequence[Strength], at: Path) -> None:
    """Draw what each method reaches along the strengths, a panel for each kind of corruption."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (kind, label) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        _panel(axes, recipe, found, kind)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel(recipe.primary.metric.replace("_", " "))
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(at, dpi=100, facecolor="white")


def _panel(axes: Axes, recipe: FewShot, found: Sequence[Strength], kind: str) -> None:
    clean = 0.0 if kind == "patches" else 1.0
    for place, method in enumerate(recipe.methods):
        points = sorted(
            (clean if not s.corruption else float(s.corruption.split()[1]), s.value)
            for s in found
            if s.method == method and (not s.corruption or s.corruption.startswith(kind))
        )
        at = [share + (place - 1.5) * 0.008 for share, _ in points]  # beside each other, so that intervals are seen
        middle = [value.estimate for _, value in points]
        low, high = ([abs(getattr(v, end) - v.estimate) for _, v in points] for end in ("low", "high"))
        axes.errorbar(at, middle, yerr=[low, high], marker="o", markersize=3, linewidth=1.4, capsize=2, label=method)
    if kind == "crop":
        axes.invert_xaxis()
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
