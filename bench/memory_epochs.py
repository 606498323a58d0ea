"""Memory of a run over epochs, on a corpus five times as large as the object store.

python bench/memory_epochs.py [--rows N] [--epochs N] [--store-mb N]

Trains the tiny_cpu recipe on drawn images, sums the PSS of its processes, the object store left out, at the end of each
epoch, and prints the slope over the epochs from the third on and the bytes that Ray spilled to disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

SIDE = 256  # 64 kB of noise a file, which does not compress
MiB = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--store-mb", type=int, default=100)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _run(Path(arguments.one), arguments.epochs, arguments.store_mb)
        return
    with tempfile.TemporaryDirectory() as folder:
        _draw(Path(folder, "images"), arguments.rows)
        samples = _watch(Path(folder), [sys.executable, __file__, *sys.argv[1:], "--one", folder])
        manifest = json.loads(Path(folder, "corpus", "manifest.json").read_text())
        told = json.loads(Path(folder, "told.json").read_text())
        _print(samples, told, sum(shard["bytes"] for split in manifest["splits"].values() for shard in split["shards"]))


def _run(folder: Path, epochs: int, store_mb: int) -> None:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    from medalign import prepare, train
    from medalign.cluster import ensure_ray

    ensure_ray(dashboard=True, object_store_bytes=store_mb * MiB)
    nothing_held_out = {"val": 0.0, "test": 0.0}
    prepare(
        str(folder / "images"),
        format="image-folder",
        out=str(folder / "corpus"),
        name="drawn",
        fractions=nothing_held_out,
    )
    fixed = ["train.validate_every=0", "train.checkpoint_every=0", "tracking.log_every=1", f"train.epochs={epochs}"]
    train("lvm_med/tiny_cpu", [f"data.corpus={folder}/corpus", f"run.uri={folder}/run", "train.steps=null", *fixed])
    stats = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    Path(folder, "told.json").write_text(
        json.dumps({"spilled": stats.spilled_bytes_total, "store": store_mb * MiB, "epochs": epochs})
    )


def _draw(folder: Path, rows: int) -> None:
    (folder / "drawn").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(rows):
        pixels = draw.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "drawn" / f"{number:06d}.png", compress_level=0)


def _watch(folder: Path, command: list[str]) -> dict[int, int]:
    """Return, by the number of the last step told, the PSS in bytes of the command's processes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples: dict[int, int] = {}
    while process.poll() is None:
        time.sleep(1)
        figures = folder / "run" / "metrics.jsonl"
        lines = figures.read_text().splitlines() if figures.exists() else []
        if lines:
            samples[len(lines)] = _pss(process.pid)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return samples


def _pss(pid: int) -> int:
    """Sum the PSS of a process and its children, mappings of the object store left out."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += sum(area.pss for area in process.memory_maps(grouped=True) if "/dev/shm" not in area.path)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _print(samples: dict[int, int], told: dict[str, int], size: int) -> None:
    steps, pss = np.array(list(samples)), np.array(list(samples.values())) / 1e6
    epoch = steps / steps.max() * told["epochs"]
    print(f"corpus {size / 1e6:.0f} MB, object store {told['store'] / 1e6:.0f} MB: {size / told['store']:.1f} times")
    for number in range(told["epochs"]):
        inside = pss[(epoch > number) & (epoch <= number + 1)]
        print(f"epoch {number + 1:3}: PSS median {np.median(inside):7.0f} MB, highest {inside.max():7.0f} MB")
    late = epoch > 2
    slope, spread = np.polyfit(epoch[late], pss[late], 1, cov=True)
    print(f"slope from the third epoch on: {slope[0]:+.2f} +- {spread[0, 0] ** 0.5:.2f} MB an epoch")
    print(f"spilled to disk: {told['spilled']} bytes")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
