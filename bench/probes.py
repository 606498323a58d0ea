"""What LVM-Med pretraining brings on two real labelled sets, over seeds: prepare -> train -> evaluate -> pool.

python bench/probes.py --data FOLDER [--seeds 0,1,2] [--sets site_a,bccd_crops] [--out runs/probes] [key=value ...]

FOLDER holds `chest_xray_two_sites/site_a` (class folders below train and test) and `bccd` (VOC annotations). For each
set the committed recipe lvm_med/tiny_cpu is trained once per seed, then the frozen encoder is probed beside the same
encoder at its random initialisation and beside raw pixels. The primary comparison is declared in the code:
pretrained against random, logistic regression, balanced accuracy on the test split, paired over seeds and groups.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from medalign import evaluate, prepare, report, train
from medalign.cluster import ensure_ray
from medalign.evaluation.pool import pool

PATIENT = r"^((?:train|test)/[^/]+/(?:person\d+|(?:NORMAL2-)?IM-\d+))"


def main() -> None:
    """Run everything and print the pooled tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sets", default="site_a,bccd_crops")
    parser.add_argument("--out", default="runs/probes")
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    ensure_ray(dashboard=True)
    corpora = _prepare(Path(arguments.data), Path(arguments.out))
    for name in arguments.sets.split(","):
        corpus = corpora[name]
        runs = [_one_run(name, corpus, Path(arguments.out), seed, arguments.overrides) for seed in seeds]
        pooled = pool(runs, evaluation=f"{name}-probe", out=f"{runs[0]}/evaluations/{name}-pooled")
        print(f"\n{name}: {len(seeds)} seeds", *pooled.lines(), sep="\n  ", flush=True)
        print(f"  {report(runs[0])}", flush=True)


def _prepare(data: Path, out: Path) -> dict[str, str]:
    chest, cells = f"{out}/corpora/site_a", f"{out}/corpora/bccd_crops"
    prepare(
        str(data / "chest_xray_two_sites" / "site_a"),
        format="image-folder",
        out=chest,
        name="site_a",
        licence="CC BY 4.0",
        fractions={"val": 0.1},
        options={"group_pattern": PATIENT},
    )
    prepare(
        str(data / "bccd" / "BCCD"), format="voc", out=cells, name="bccd_crops", licence="MIT", options={"crops": True}
    )
    return {"site_a": chest, "bccd_crops": cells}


def _one_run(name: str, corpus: str, out: Path, seed: int, overrides: list[str]) -> str:
    run = f"{out}/{name}-{seed}"
    began = time.perf_counter()
    result = train("lvm_med/tiny_cpu", [f"data.corpus={corpus}", f"run.uri={run}", f"run.seed={seed}", *overrides])
    figures = {key: round(value, 3) for key, value in result.last.get("validation", {}).items()}
    seconds = round(time.perf_counter() - began)
    print(f"{name} seed {seed}: {result.step} steps, {seconds} s, held out: {json.dumps(figures)}", flush=True)
    evaluate(run, corpus=corpus)
    return run


if __name__ == "__main__":
    main()
