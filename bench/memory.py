"""Memory of a run as its corpus grows tenfold: peak PSS of all its processes, at equal steps and object store.

python bench/memory.py [--rows N] [--steps N]

Trains the tiny_cpu recipe twice on drawn images, N rows and 10 N rows, and prints both peaks and their ratio.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

STORE = 300 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _run(*arguments.one, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for rows in (arguments.rows, 10 * arguments.rows):
            _draw(Path(folder, f"images-{rows}"), rows)
            command = [sys.executable, __file__, "--steps", str(arguments.steps)]
            command += ["--one", f"{folder}/images-{rows}", f"{folder}/run-{rows}"]
            peaks[rows] = _peak(command)
            print(f"{rows:7} rows: peak PSS {peaks[rows] / 1e6:7.0f} MB", flush=True)
        print(f"ratio {peaks[10 * arguments.rows] / peaks[arguments.rows]:.3f}")


def _run(images: str, run: str, steps: int) -> None:
    from medalign import prepare, train
    from medalign.cluster import ensure_ray

    ensure_ray(dashboard=True, object_store_bytes=STORE)
    prepare(images, format="image-folder", out=f"{run}-corpus", name="drawn")
    print("measure", flush=True)
    fixed = [f"train.steps={steps}", "train.validate_every=0", "train.checkpoint_every=0"]
    train("lvm_med/tiny_cpu", [f"data.corpus={run}-corpus", f"run.uri={run}", *fixed])


def _draw(folder: Path, rows: int) -> None:
    """Write noisy images, one folder as one class, that do not compress to nothing."""
    (folder / "drawn").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(rows):
        pixels = draw.integers(0, 256, (96, 96), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "drawn" / f"{number:06d}.png")


def _peak(command: list[str]) -> int:
    """Run a command and return the peak of its processes' summed PSS from the moment it prints `measure`."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    highest, done = 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.5):
            highest = max(highest, _pss(process.pid))

    watcher = threading.Thread(target=watch)
    for line in process.stdout:
        if line.strip() == "measure":
            watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return highest


def _pss(pid: int) -> int:
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
