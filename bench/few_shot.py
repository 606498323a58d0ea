"""The few-shot table: prepares five small real sets, runs a comparison on them and prints its tables.

python bench/few_shot.py --data FOLDER [--recipe few_shot/small_sets] [--write docs/results.md] [key=value ...]

FOLDER holds `chest_xray_two_sites` (site_a with train and test, site_b), `pneumoniamnist/pneumoniamnist.npz`, `bccd`
(VOC annotations) and `vqa_rad` (its JSON and images; the organ of an image is its class). The fifth set comes in
packages. What was run before is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from medalign import prepare
from medalign.cluster import ensure_ray
from medalign.few_shot import few_shot, open_comparison

CORPORA = Path("runs/few_shot/corpora")
PATIENT = r"^((?:train|test)/[^/]+/(?:person\d+|(?:NORMAL2-)?IM-\d+))"
ORGANS = {"CHEST": "chest", "ABD": "abdomen", "HEAD": "head"}


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="few_shot/small_sets")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replaces the text between the recipe's markers")
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    ensure_ray()
    prepare_all(arguments.data)
    began = time.perf_counter()
    results = few_shot(
        open_comparison(arguments.recipe, arguments.overrides), progress=lambda line: print(line, flush=True)
    )
    table = results.markdown()
    print(f"\n{time.perf_counter() - began:.0f} s\n\n{table}", flush=True)
    if arguments.write:
        write_between(arguments.write, arguments.recipe, table)


def prepare_all(data: Path) -> None:
    """Prepare the five corpora; those that are there stay."""
    chest = data / "chest_xray_two_sites"
    known = {"format": "image-folder", "licence": "CC BY 4.0"}
    by_patient = {"options": {"group_pattern": PATIENT}}
    prepare(str(chest / "site_a"), out=str(CORPORA / "site_a"), name="site_a", **known, **by_patient)
    prepare(
        str(chest / "site_b"), out=str(CORPORA / "site_b"), name="site_b", **known, fractions={"val": 0.0, "test": 0.95}
    )
    prepare(
        str(data / "pneumoniamnist" / "pneumoniamnist.npz"),
        format="medmnist",
        out=str(CORPORA / "pneumoniamnist"),
        name="pneumoniamnist",
        licence="CC BY 4.0",
        options={"classes": "normal,pneumonia"},
    )
    cells = {"format": "voc", "licence": "MIT", "options": {"crops": True}}
    prepare(str(data / "bccd" / "BCCD"), out=str(CORPORA / "cells"), name="cells", **cells)
    prepare("packages", format="packaged", out=str(CORPORA / "modalities"), name="modalities")
    with tempfile.TemporaryDirectory() as folder:
        organs = by_organ(data / "vqa_rad", Path(folder, "organs"))
        shares = {"val": 0.0, "test": 0.5}
        out = str(CORPORA / "organs")
        prepare(str(organs), format="image-folder", out=out, name="organs", licence="CC0", fractions=shares)


def by_organ(source: Path, folder: Path) -> Path:
    """Copy VQA-RAD's images into a folder per organ."""
    questions = json.loads((source / "vqa_rad.json").read_text())
    for name, organ in sorted({(q["image_name"], q["image_organ"]) for q in questions}):
        at = folder / ORGANS[organ]
        at.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "images" / name, at / name)
    return folder


def write_between(page: Path, recipe: str, table: str) -> None:
    """Replace the text of a page between a recipe's markers."""
    first, last = f"<!-- {recipe} -->", f"<!-- /{recipe} -->"
    text = page.read_text()
    if first not in text or last not in text:
        raise SystemExit(f"{page} has no markers {first} and {last}.")
    head, rest = text.split(first, 1)
    page.write_text(f"{head}{first}\n{table}{last}{rest.split(last, 1)[1]}")


if __name__ == "__main__":
    main()
