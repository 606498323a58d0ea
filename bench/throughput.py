"""Images per second of MedAlign's stream beside Ray Data, a PyTorch DataLoader and WebDataset; and of whole runs.

python bench/throughput.py [--rounds N] [--batches N] [--rows N] [--size N] [--cores N] [--train CORPUS]

Streams (streams.py), from files, and from an S3 server of its own on the same cores: the same drawn JPEGs, decoder,
augmentation, threads and cores, an identity model; the ways take turns, and medians over the rounds are compared. Every
line also has the CPU time that an image costs in all processes that are there at both ends of the clock.

--train CORPUS compares `medalign train` (Ray Train, DeepSpeed, two workers) with plain_loader.py as well: the tiny_cpu
recipe with InfoNCE, and an identity model.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from medalign import storage
from medalign.data import manifest, shards
from medalign.storage import seaweedfs

HERE = Path(__file__).resolve().parent
WAYS = ("exact", "exact_s3", "ray_data", "data_loader", "web_dataset")
BARS = {"ray_data": 0.95, "data_loader": 0.9, "web_dataset": 1.0}
S3_BAR = 0.8  # of local files
S3 = "s3://bench"
WIDTH, HEIGHT, SHARD_ROWS = 320, 240, 512
WORKLOADS = {
    "tiny_cpu": ["objective={type: info_nce}"],
    "identity": ["objective={type: 'identity_objective:Identity'}", "train.zero_stage=0"],
}


def main() -> None:
    """Measure, and print one line per comparison and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60, help="micro-batches of 64 on the clock, in each round")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--train", metavar="CORPUS")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory(prefix="medalign-bench-") as folder:
        _draw(Path(folder), arguments.rows)
        with seaweedfs.serve(buckets=("bench",)) as server, seaweedfs.in_environment(server):
            storage.copy_folder(f"{folder}/corpus", f"{S3}/corpus")
            compare_streams(folder, arguments)
    if arguments.train:
        compare_runs(arguments.train, arguments)


def compare_streams(folder: str, arguments: argparse.Namespace) -> None:
    """Take turns with the ways and print their medians."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(arguments.rounds):
        for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
            sizes = (arguments.batches, arguments.size, arguments.cores)
            place = S3 if way == "exact_s3" else folder
            found[way].append(_run("streams.py", way, place, *map(str, sizes)))
            print(f"round {turn + 1}: {way:12} {found[way][-1]['images_per_second']:7.1f} images/s", flush=True)
    medians = {
        way: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        for way, turns in found.items()
    }
    print(f"{arguments.cores} cores, views of {arguments.size} px, median of {arguments.rounds} rounds")
    ours = medians["exact"]
    for way, values in medians.items():
        line = f"{way:12} {values['images_per_second']:7.1f} images/s {values['cpu_ms']:6.2f} CPU ms/image"
        if way == "exact_s3":
            line += f"   {values['images_per_second'] / ours['images_per_second']:.2f}x local files (bar {S3_BAR})"
        if way in BARS:
            ratio = ours["images_per_second"] / values["images_per_second"]
            cpu = values["cpu_ms"] / ours["cpu_ms"]
            line += f"   exact is {ratio:.2f}x in images/s (bar {BARS[way]}), {cpu:.2f}x by CPU"
        print(line)
    print(json.dumps(found), flush=True)


def compare_runs(corpus: str, arguments: argparse.Namespace) -> None:
    """Take turns with `medalign train` and the plain script, and print their medians."""
    sys.path.append(str(HERE))
    figures: dict[str, dict[str, list[float]]] = {name: {"medalign": [], "plain": []} for name in WORKLOADS}
    for _ in range(arguments.rounds):
        for name, overrides in WORKLOADS.items():
            figures[name]["medalign"].append(_medalign(corpus, arguments.steps, overrides))
            figures[name]["plain"].append(_run("plain_loader.py", corpus, str(arguments.steps), name))
            time.sleep(1)
    for name, sides in figures.items():
        ours, plain = (statistics.median(sides[side]) for side in ("medalign", "plain"))
        print(f"{name:10} medalign {ours:7.1f} images/s   plain {plain:7.1f} images/s   ratio {ours / plain:.2f}")
    print(json.dumps(figures))


def _run(script: str, *words: str) -> Any:
    """Run a script beside this one and return what it prints: the one line that is JSON."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *words], check=True, capture_output=True, text=True, timeout=900
    )
    for line in reversed(done.stdout.splitlines()):
        try:
            return json.loads(line)
        except json.JSONDecodeError:  # what Ray says while it ends
            continue
    sys.exit(f"{script} {' '.join(words)} measured nothing: {done.stderr[-2000:]}")


def _medalign(corpus: str, steps: int, overrides: list[str]) -> float:
    """Return images per second over the second half of a run: the first half warms up and fills buffers."""
    run = tempfile.mkdtemp(prefix="medalign-bench-")
    command = [sys.executable, "-m", "medalign.cli", "train", "lvm_med/tiny_cpu", f"data.corpus={corpus}"]
    command += [f"run.uri={run}", f"train.steps={steps}", "train.validate_every=0", "train.checkpoint_every=0"]
    subprocess.run([*command, "tracking.log_every=5", *overrides], check=True, stdout=subprocess.DEVNULL, timeout=600)
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    middle = train[len(train) // 2 - 1]
    images = (train[-1]["step"] - middle["step"]) * 128
    shutil.rmtree(run)
    return images / (train[-1]["seconds"] - middle["seconds"])


def _draw(folder: Path, rows: int) -> None:
    """Write JPEGs as a corpus and, the same bytes, as tar files: `corpus/` and `tars/`."""
    draw = np.random.default_rng(0)
    written = []
    (folder / "tars").mkdir()
    for start in range(0, rows, SHARD_ROWS):
        images = [_jpeg(draw) for _ in range(min(SHARD_ROWS, rows - start))]
        with tarfile.open(folder / "tars" / f"{start:06d}.tar", "w") as tar:
            for number, data in enumerate(images):
                entry = tarfile.TarInfo(f"{start + number:06d}.jpg")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        known = {"label": "drawn", "width": WIDTH, "height": HEIGHT}
        table = [
            {
                **known,
                "id": f"{start + n:06d}",
                "group": f"{start + n:06d}",
                "pixels": f"{start + n:06d}",
                "image": data,
            }
            for n, data in enumerate(images)
        ]
        name = shards.name("train", start // SHARD_ROWS)
        columns = pa.Table.from_pylist(table, schema=manifest.COLUMNS)
        written.append(shards.write(f"{folder}/corpus", name, columns, row_group_rows=64))
    split = manifest.Split(rows=rows, groups=rows, classes={"drawn": rows}, shards=tuple(written))
    manifest.write(f"{folder}/corpus", manifest.Manifest(name="drawn", splits={"train": split}, classes=("drawn",)))


def _jpeg(draw: np.random.Generator) -> bytes:
    """Return a smooth picture with some noise: as large as a photograph of its size is when compressed."""
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + draw.integers(-6, 7, smooth.shape, dtype=np.int16)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=80)
    return stream.getvalue()


if __name__ == "__main__":
    main()
