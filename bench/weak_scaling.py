"""Weak scaling, simulated: 1, 2 and 4 workers on Ray whose step is a sleep, so that cores do not matter.

python bench/weak_scaling.py [--workers 1 2 4] [--steps 60] [--seconds 1.0] [--repeats 3]

The step grows with the workers: each computes one micro-batch of 16, asleep for `--seconds`. Everything else is a real
run: Ray Data reads and decodes, the workers meet in gradient sums, rank 0 reports. What is measured is the time of a
step, after the first ten; flat to 5 % is the bar. Prints the median step of each run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

MICRO_BATCH, SKIPPED, BAR = 16, 10, 0.05
HERE = str(Path(__file__).resolve().parent)


def main() -> None:
    """Measure and print; exit 1 where steps are not flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    _environment()
    from medalign import prepare
    from medalign.cluster import ensure_ray

    medians: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    with tempfile.TemporaryDirectory() as folder:
        _draw(Path(folder, "images"), 256)
        ensure_ray(dashboard=True, object_store_bytes=300 << 20)
        prepare(str(Path(folder, "images")), format="image-folder", out=f"{folder}/corpus", name="drawn")
        for repeat in range(arguments.repeats):
            for workers in arguments.workers:  # in turn, so that what else the machine does falls on all of them
                seconds = _run(folder, f"{workers}-{repeat}", workers, arguments)
                medians[workers].append(seconds)
                print(f"{workers} workers, repeat {repeat}: {seconds:.4f} s a step", flush=True)
    _judge(medians, arguments.seconds)


def _judge(medians: dict[int, list[float]], seconds: float) -> None:
    base = statistics.median(medians[min(medians)])
    worst = 0.0
    for workers, found in medians.items():
        step = statistics.median(found)
        worst = max(worst, step / base - 1)
        beside = f"{step - seconds:.4f} s beside the sleep"
        print(f"{workers} workers: {1 / step:.4f} steps/s ({step / base - 1:+.1%} a step), {beside}")
    if worst > BAR:
        sys.exit(f"not flat: {worst:.1%} above {min(medians)} workers; the bar is {BAR:.0%}")


def _environment() -> None:
    path = os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))
    os.environ.update(PYTHONPATH=path, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")  # before Ray: its workers see it
    sys.path.insert(0, HERE)


def _run(folder: str, name: str, workers: int, arguments: argparse.Namespace) -> float:
    from medalign import train

    run = f"{folder}/run-{name}"
    objective = json.dumps({"type": "identity_objective:Sleeping", "seconds": arguments.seconds})
    words = [f"data.corpus={folder}/corpus", f"run.uri={run}", f"objective={objective}", f"train.workers={workers}"]
    words += [f"train.micro_batch={MICRO_BATCH}", f"train.global_batch={MICRO_BATCH * workers}", "data.image_size=32"]
    words += [f"train.steps={arguments.steps}", "train.validate_every=0", "train.checkpoint_every=0"]
    words += ["train.cpus_per_worker=0.5", "tracking.log_every=1", "tracking.tensorboard=false"]
    words += ["model.hidden_sizes=[8, 16]", "model.depths=[1, 1]", "model.embedding_size=8"]
    train("lvm_med/tiny_cpu", words)
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    ends = [line["seconds"] for line in lines if line["kind"] == "train" and line["step"] >= SKIPPED]
    return statistics.median(later - sooner for sooner, later in itertools.pairwise(ends))


def _draw(folder: Path, rows: int) -> None:
    (folder / "drawn").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(rows):
        Image.fromarray(draw.integers(0, 256, (96, 96), dtype=np.uint8)).save(folder / "drawn" / f"{number:06d}.png")


if __name__ == "__main__":
    main()
