"""A sweep of Dude on real cells: what it costs, what ASHA saves and whether it finds as good a configuration.

python bench/sweep.py --data FOLDER [--seeds 0,1,2] [--out runs/sweeps/bench] [--only asha|all] [key=value ...]

FOLDER holds `bccd` (VOC annotations). For each seed of the sampler the shipped sweep `dude/sweep_uot` is run twice over
the same 24 configurations: with ASHA, and with every trial to its end. What was run before is not run again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from medalign import prepare, tune
from medalign.reports.sweep import cost
from medalign.tune.settings import Tune

RECIPE = "dude/sweep_uot"


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", default="runs/sweeps/bench")
    parser.add_argument("--only", choices=("asha", "all"), help="one of the two schedulers")
    parser.add_argument("overrides", nargs="*", help="laid over the recipe")
    arguments = parser.parse_args()
    corpus = f"{arguments.out}/cells"
    prepare(
        str(arguments.data / "bccd" / "BCCD"),
        out=corpus,
        name="cells",
        format="voc",
        licence="MIT",
        options={"crops": True},
    )
    place = [f"tasks.cells.train={corpus}", f"tasks.cells.tests.cells={corpus}", f"out={arguments.out}/table"]
    kinds = [arguments.only] if arguments.only else ["asha", "all"]
    print(
        f"{'seed':>4} {'scheduler':>9} {'trials':>6} {'stopped':>7} {'failed':>6}"
        f" {'best':>7} {'steps':>6} {'s':>6} {'load':>5}"
    )
    for seed in map(int, arguments.seeds.split(",")):
        for kind in kinds:
            began = time.perf_counter()
            more = [] if kind == "asha" else ["tune.scheduler={type: none}"]
            uri = f"{arguments.out}/{kind}-{seed}"
            found = tune.tune(RECIPE, [*place, f"tune.uri={uri}", f"tune.seed={seed}", *more, *arguments.overrides])
            spent, counted = cost(found.trials, Tune(uri=uri, metric=found.metric, trials=1)), found.counted()
            print(
                f"{seed:4d} {kind:>9} {len(found.trials):6d} {counted['stopped']:7d} {counted['failed']:6d}"
                f" {found.value or 0:7.4f} {1 - spent['saved']:6.0%} {time.perf_counter() - began:6.0f}"
                f" {os.getloadavg()[1]:5.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
