"""Images per second of `medalign train` beside a plain PyTorch DataLoader script: same model, augmentation and cores.

python bench/throughput.py [CORPUS] [--rounds N] [--steps N]

Two workloads, interleaved, medians over rounds: the tiny_cpu recipe with InfoNCE (whose plain loop is ten lines, so
both sides compute the same thing), and an identity model, which leaves the data path alone. The plain script runs
two processes under gloo with DistributedDataParallel, each with one DataLoader worker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKLOADS = {
    "tiny_cpu": ["objective={type: info_nce}"],
    "identity": ["objective={type: 'identity_objective:Identity'}", "train.zero_stage=0"],
}


def main() -> None:
    """Measure, and print one line per workload and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", default="corpora/demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    sys.path.append(str(HERE))
    figures: dict[str, dict[str, list[float]]] = {name: {"medalign": [], "plain": []} for name in WORKLOADS}
    for _ in range(arguments.rounds):
        for name, overrides in WORKLOADS.items():
            figures[name]["medalign"].append(_medalign(arguments.corpus, arguments.steps, overrides))
            figures[name]["plain"].append(_plain(arguments.corpus, arguments.steps, name))
    for name, sides in figures.items():
        ours, plain = (statistics.median(sides[side]) for side in ("medalign", "plain"))
        print(f"{name:10} medalign {ours:7.1f} images/s   plain {plain:7.1f} images/s   ratio {ours / plain:.2f}")
    print(json.dumps(figures))


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


def _plain(corpus: str, steps: int, workload: str) -> float:
    done = subprocess.run(
        [sys.executable, str(HERE / "plain_loader.py"), corpus, str(steps), workload],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    time.sleep(1)
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
