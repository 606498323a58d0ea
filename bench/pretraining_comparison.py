"""The table of pretraining objectives: prepares three small real sets, runs a comparison on them and prints its tables.

python bench/pretraining_comparison.py --data FOLDER [--recipe pretraining/small_sets] [--write docs/results.md]
    [key=value ...]

FOLDER holds `chest_xray_two_sites` (site_a with train and test, site_b), `bccd` (VOC annotations) and `vqa_rad` (its
JSON and images; the organ of an image is its class). Everything runs in this process, on one core; what was run before
is not run again, so a run that was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from few_shot import PATIENT, by_organ

from medalign import prepare, storage
from medalign.cluster import ensure_ray
from medalign.pretraining import compare_pretraining, open_comparison

CORPORA = Path("runs/pretraining/corpora")


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="pretraining/small_sets")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replaces the text between the recipe's markers")
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    comparison = open_comparison(arguments.recipe, arguments.overrides)
    prepare_all(arguments.data)
    began = time.perf_counter()
    results = compare_pretraining(comparison, progress=lambda line: print(line, flush=True))
    table = results.markdown()
    print(f"\n{time.perf_counter() - began:.0f} s\n\n{table}", flush=True)
    if arguments.write:
        _write(arguments.write, arguments.recipe, table)


def prepare_all(data: Path) -> None:
    """Prepare the corpora that are not there."""
    missing = [name for name in ("site_a", "site_b", "organs", "cells") if not _is_there(name)]
    if not missing:
        return
    import ray

    ensure_ray()
    chest = data / "chest_xray_two_sites"
    known = {"format": "image-folder", "licence": "CC BY 4.0"}
    if "site_a" in missing:
        by_patient = {"fractions": {"val": 0.1}, "options": {"group_pattern": PATIENT}}
        prepare(str(chest / "site_a"), out=str(CORPORA / "site_a"), name="site_a", **known, **by_patient)
    if "site_b" in missing:
        all_but_a_few = {"fractions": {"val": 0.0, "test": 0.95}}
        prepare(str(chest / "site_b"), out=str(CORPORA / "site_b"), name="site_b", **known, **all_but_a_few)
    if "cells" in missing:
        cells = {"format": "voc", "licence": "MIT", "options": {"crops": True}}
        prepare(str(data / "bccd" / "BCCD"), out=str(CORPORA / "cells"), name="cells", **cells)
    if "organs" in missing:
        with tempfile.TemporaryDirectory() as folder:
            organs, shares = by_organ(data / "vqa_rad", Path(folder, "organs")), {"val": 0.0, "test": 0.5}
            known = {"format": "image-folder", "licence": "CC0", "fractions": shares}
            prepare(str(organs), out=str(CORPORA / "organs"), name="organs", **known)
    ray.shutdown()  # what follows needs no cluster


def _is_there(name: str) -> bool:
    return storage.exists(str(CORPORA / name / "manifest.json"))


def _write(page: Path, recipe: str, table: str) -> None:
    first, last = f"<!-- {recipe} -->", f"<!-- /{recipe} -->"
    text = page.read_text()
    if first not in text or last not in text:
        raise SystemExit(f"{page} has no markers {first} and {last}.")
    head, rest = text.split(first, 1)
    page.write_text(f"{head}{first}\n{table}{last}{rest.split(last, 1)[1]}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
