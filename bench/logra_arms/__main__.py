"""LoGra-Med beside its baselines on real images: every arm, at a tenth and all of the data, over seeds, one table.

python bench/logra_arms --data FOLDER [--out runs/logra_arms] [--seeds 0,1,2,3,4] [--write docs/results.md]

FOLDER holds `bccd/BCCD`, `chest_xray_two_sites` and `vqa_rad`. A small language model of whole words reads frozen,
cached features of EfficientNet-Lite0; arms.py is the recipe. Rates and alphas are chosen first, on the validation
pictures, with another seed. Cells that are there are not run again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).resolve().parents[1]))

from arms import ARMS, PRIMARY, RATES, SEEDS, SHARES, STRENGTHS, TUNED_AT, TUNING_SEED
from cached_features import encode
from cells import Cell, Material, run_cell
from pictures import list_pictures
from table import Accuracy, markdown

SIDE = 4  # 16 image tokens
MARKERS = ("<!-- logra_arms -->", "<!-- /logra_arms -->")


def main() -> None:
    """Encode, tune, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/logra_arms"))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replaces the text between the table's markers")
    given = parser.parse_args()
    began, seeds = time.perf_counter(), tuple(int(seed) for seed in given.seeds.split(","))
    material = _material(given.data, given.out)
    rate, alphas = _tune(material, given.out)
    found = {}
    for seed in seeds:
        for share in SHARES:
            for name, arm in ARMS.items():
                cell = Cell(arm=name, share=share, seed=seed, rate=rate, alpha=alphas.get(name, 0.0))
                found[name, share, seed] = run_cell(cell, arm, material, given.out)
                print(f"{time.perf_counter() - began:6.0f} s  {name}, {share:.0%}, seed {seed}", flush=True)
    accuracy = Accuracy([material.pictures[n] for n in material.places("test")])
    table = markdown(found, accuracy, shares=SHARES, seeds=seeds, primary=PRIMARY)
    chosen = ", ".join(f"{name} {alpha:g}" for name, alpha in alphas.items())
    seconds = sum(cell["seconds"] for cell in found.values())
    text = f"{table}\nChosen on validation: rate {rate:g}; alpha: {chosen}. {len(found)} cells in {seconds:.0f} s.\n"
    print(f"\n{text}", flush=True)
    if given.write:
        _write(given.write, text)


def _material(data: Path, out: Path) -> Material:
    pictures = list_pictures(data)
    features = encode([p.path.read_bytes() for p in pictures], side=SIDE, cache=out / f"features_{SIDE}.npy")
    if len(features) != len(pictures) + 1:
        raise SystemExit(f"{out}: features of {len(features) - 1} pictures for {len(pictures)}; delete them.")
    return Material(pictures=pictures, features=features)


def _tune(material: Material, out: Path) -> tuple[float, dict[str, float]]:
    """Return the plain arm's best rate for all, and each aligned arm's best alpha: as many trials each."""
    accuracy = Accuracy([material.pictures[n] for n in material.places("val")])

    def value(name: str, rate: float, alpha: float) -> float:
        cell = Cell(arm=name, share=TUNED_AT, seed=TUNING_SEED, rate=rate, alpha=alpha, split="val")
        found: dict[str, Any] = run_cell(cell, ARMS[name], material, out)
        score = float(sum(accuracy.per_type(found["answers"])) / len(accuracy.types))
        print(f"trial: {name}, rate {rate:g}, alpha {alpha:g}: {score:.3f} on validation", flush=True)
        return score

    rate = max(RATES, key=lambda rate: value(PRIMARY[1], rate, 0.0))
    aligned = [name for name, arm in ARMS.items() if arm.has_alpha]
    return rate, {name: max(STRENGTHS, key=lambda alpha: value(name, rate, alpha)) for name in aligned}  # noqa: B023


def _write(page: Path, table: str) -> None:
    text = page.read_text()
    if any(marker not in text for marker in MARKERS):
        raise SystemExit(f"{page} has no markers {MARKERS[0]} and {MARKERS[1]}.")
    head, rest = text.split(MARKERS[0], 1)
    page.write_text(f"{head}{MARKERS[0]}\n{table}{MARKERS[1]}{rest.split(MARKERS[1], 1)[1]}")


if __name__ == "__main__":
    main()
