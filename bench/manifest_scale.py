"""What a corpus costs before its first image is read, as it grows: the manifest alone, without data behind it.

python bench/manifest_scale.py [--rows N ...] [--shard-rows S] [--row-group-rows R] [--json]

Writes the manifest of a corpus of N rows of 14 kB, cut as `medalign data prepare` was told to, then in a fresh process:
reads it, plans a run on it, draws the order of its first step and of a late one, and lays out the windows that Ray Data
would read. Prints seconds and peak memory, and the slopes per 1,000 shards and 10 M rows. The bar is 10 s and 1 GB for
100 M rows, from the start of the process to where the first row group would be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROW_BYTES = 14_000
BARS = {"seconds": 10.0, "megabytes": 1000.0}


def main() -> None:
    """Measure and print; exit 1 above a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--shard-rows", type=int, default=16_384)
    parser.add_argument("--row-group-rows", type=int, default=2_048, help="2048 of 14 kB are 29 MB")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_measure(arguments.one)))
        return
    found = [_apart(rows, arguments.shard_rows, arguments.row_group_rows) for rows in arguments.rows]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)
    last = found[-1]
    if last["rows"] >= 100_000_000 and any(last[name] > bar for name, bar in BARS.items()):
        sys.exit(f"above the bar: {last['seconds']:.1f} s, {last['megabytes']:.0f} MB")


def _apart(rows: int, shard: int, group: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shards = _write(folder, rows, shard, group)
        size = Path(folder, "manifest.json").stat().st_size
        done = subprocess.run([sys.executable, __file__, "--one", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return {"rows": rows, "shards": shards, "manifest_bytes": size, **json.loads(done.stdout.splitlines()[-1])}


def _write(folder: str, rows: int, shard_rows: int, group: int) -> int:
    from medalign.data import manifest

    shards, left = [], rows
    while left:
        groups = []
        while left and sum(groups) < shard_rows:
            groups.append(min(group, left))
            left -= groups[-1]
        digest = [hashlib.sha256(f"{len(shards)}/{number}".encode()).hexdigest() for number in range(len(groups) + 1)]
        offsets = [sum(groups[:number]) * ROW_BYTES for number in range(len(groups) + 1)]
        ranges = tuple(
            (low, size * ROW_BYTES, name) for low, size, name in zip(offsets, [*groups, 4], digest, strict=True)
        )
        shards.append(
            manifest.Shard(
                path=f"train-{len(shards):06d}.parquet",
                rows=sum(groups),
                row_groups=tuple(groups),
                bytes=sum(groups) * ROW_BYTES,
                sha256=hashlib.sha256(str(len(shards)).encode()).hexdigest(),
                ranges=ranges,
            )
        )
    split = manifest.Split(rows=rows, groups=rows, classes={"a": rows}, shards=tuple(shards))
    manifest.write(folder, manifest.Manifest(name="large", splits={"train": split}, classes=("a",)))
    return len(shards)


def _measure(corpus: str) -> dict[str, float]:
    began = time.perf_counter()
    from medalign import launch

    imported = time.perf_counter()
    words = [f"data.corpus={corpus}", f"run.uri={corpus}/run", "train.validate_every=0", "train.steps=null"]
    words += ["train.epochs=2", "train.micro_batch=64", "train.global_batch=4096", "data.shuffle_rows=100000"]
    _, plan = launch.dry_run("lvm_med/tiny_cpu", words)
    planned = time.perf_counter()
    order = plan.stream.order
    order.step_rows(0)
    first = time.perf_counter()
    order.step_rows(plan.total_steps - 2)
    late = time.perf_counter()
    task = len(pickle.dumps(plan.stream))
    windows = order.windows(0, plan.total_steps)
    laid_out = time.perf_counter()
    return {
        "imports": imported - began,
        "plan": planned - imported,
        "first_step": first - planned,
        "late_step": late - first,
        "windows": len(windows),
        "lay_out": laid_out - late,
        "task_megabytes": task / 1e6,
        "seconds": laid_out - began,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _show(found: list[dict[str, Any]]) -> None:
    print("rows         shards  manifest   plan    step 0   late step  lay out  task's corpus  all      peak")
    for line in found:
        print(
            f"{line['rows']:<12,} {line['shards']:<7,} {line['manifest_bytes'] / 1e6:6.1f} MB {line['plan']:6.2f} s"
            f" {line['first_step']:6.3f} s {line['late_step']:8.3f} s {line['lay_out']:6.3f} s"
            f" {line['task_megabytes']:10.1f} MB {line['seconds']:7.2f} s {line['megabytes']:6.0f} MB"
        )
    if len(found) > 1:
        low, high = found[0], found[-1]
        shards, rows = (high[name] - low[name] for name in ("shards", "rows"))
        seconds, memory = (high[name] - low[name] for name in ("seconds", "megabytes"))
        print(f"per 1,000 shards: {1000 * seconds / shards:.3f} s, {1000 * memory / shards:.1f} MB", end="; ")
        print(f"per 10 M rows: {1e7 * seconds / rows:.3f} s, {1e7 * memory / rows:.1f} MB")


if __name__ == "__main__":
    main()
