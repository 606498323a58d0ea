"""Killing runs: a nursery, which has imported everything and started no thread, forks runs and kills them by a plan.

python chaos_rig.py SPEC.json prints a JSON result as its last line; see `nursery`. A child runs the whole of `train`.
"""

import contextlib
import json
import mmap
import os
import queue
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

WALL_CLOCK = {"images_per_second", "data_wait", "seconds", "solver_seconds"}
STEPS, EPOCH_STEPS, MICRO_BATCHES = 24, 4, 3
LIMIT_S = 240
NO_THREADS = {
    "HF_DEACTIVATE_ASYNC_LOAD": "1",
    "OMP_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}  # pyarrow's jemalloc has one
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lvm_med": {"type": "lvm_med", "graph_size": 8, "neighbours": 3, "projection_size": 8, "graph_width": 8},
    "info_nce": {"type": "info_nce", "projection_size": 8},
    "logra_med": {"type": "logra_med", "graph_width": 16, "neighbours": 2, "graph_dropout": 0.2},
}
CHAT_MODEL = {"type": "llava", "language": "tiny_bytes", "max_length": 300}
# figures are of 3 steps, checkpoints of 2: most kills meet a line of metrics that is not full
RECIPE: dict[str, Any] = {
    "data": {"image_size": 16, "shuffle_rows": 48},
    "model": {"type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "optimizer": {"type": "adam", "learning_rate": 1e-3},
    "train": {"workers": 0, "micro_batch": 8, "global_batch": 24, "steps": STEPS, "checkpoint_every": 2}
    | {"validate_every": 5, "validation_batches": 2},
    "tracking": {"log_every": 3, "tensorboard": False},
}


def write_recipe(folder: Path, corpus: str, *, objective: str, tower: str = "", **train: Any) -> str:
    """Write a recipe whose corpus has 4 steps an epoch, 3 micro-batches a step; return its path.

    With `tower`, a directory of a small image tower, the model is a multimodal one.
    """
    parts = {**RECIPE, "run": {"seed": 4, "uri": "unset"}, "objective": OBJECTIVES[objective]}
    parts |= {"data": {**RECIPE["data"], "corpus": corpus}, "train": {**RECIPE["train"], **train}}
    if tower:
        parts["model"] = CHAT_MODEL | {"vision": tower}
        parts["data"]["image_size"] = 32
    (folder / f"{objective}.yaml").write_text(yaml.safe_dump(parts))
    return str(folder / f"{objective}.yaml")


def kill_runs(folder: Path, recipe: str, *, runs: int, kills: int, seed: int) -> dict[str, Any]:
    """Return what a nursery found: {"kills": [[run, step, phase], ...], "wrong": [lines], "calm": ...}."""
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"folder": str(folder), "recipe": recipe, "runs": runs, "kills": kills, "seed": seed}))
    command = [sys.executable, __file__, str(spec)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20 * LIMIT_S, env=os.environ | NO_THREADS)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def nursery(spec: dict[str, Any]) -> dict[str, Any]:
    """Train once undisturbed and `runs` times with `kills` kills each; compare the ends."""
    import deepspeed.runtime.zero.muon.muon_optimizer  # 4 s, which `initialize` takes  # noqa: F401
    import pandas  # noqa: F401  which pyarrow looks for
    import torch

    import medalign.launch.worker
    import medalign.training.engine  # noqa: F401

    torch.set_num_threads(1)
    _warm(spec["recipe"])
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"the nursery has {threads} threads: its children could hang"
    folder, recipe = Path(spec["folder"]), spec["recipe"]
    progress = mmap.mmap(-1, 8)
    calm = folder / "calm"
    _end(_fork(recipe, calm, progress))
    draw = random.Random(spec["seed"])
    killed, wrong, began = [], [], time.monotonic()
    for number in range(spec["runs"]):
        run = folder / f"run-{number}"
        first, last = EPOCH_STEPS * MICRO_BATCHES * 4, (STEPS - 1) * MICRO_BATCHES * 4
        points = sorted(draw.sample(range(first, last), spec["kills"]))  # inside the second epoch and later ones
        for point in points:
            step, phase = _kill(recipe, run, progress, point=point, delay=draw.uniform(0, 0.004))
            killed.append([number, step, phase])
        _end(_fork(recipe, run, progress))
        wrong += [f"run {number}, killed at {points}: {line}" for line in differences(calm, run)]
    return {"kills": killed, "wrong": wrong, "seconds": time.monotonic() - began, "threads": threads}


def _warm(recipe: str) -> None:
    """Run one forward, so that the children need not import the model nor compile the solver each for itself.

    Of a multimodal model only what building it takes.
    """
    import torch
    from tqdm import tqdm

    from medalign.launch.worker import build_module
    from medalign.recipe import open_recipe
    from medalign_core.types import DrawKey, ImageBatch

    draw = torch.Generator().manual_seed(0)
    batch = ImageBatch(
        images=torch.randint(0, 256, (8, 2, 3, 16, 16), dtype=torch.uint8, generator=draw),
        boxes=torch.tensor([0.0, 0, 1, 1]).repeat(8, 2, 1),
        flipped=torch.zeros(8, 2, dtype=torch.bool),
        valid=torch.ones(8, dtype=torch.bool),
        labels=torch.zeros(8, dtype=torch.long),
        ids=torch.arange(8),
        key=DrawKey(0, 0, 0),
        weight=1.0,
    )
    tqdm.monitor_interval = 0  # the bar of loading weights would start a thread
    module = build_module(open_recipe(recipe)[0])
    if "llava" not in Path(recipe).read_text():
        with torch.no_grad():  # a backward would start autograd's threads
            module(batch)


def differences(calm: Path, run: Path) -> list[str]:
    """Return in what a disturbed run's end differs from the undisturbed one's: tensors, state, figures, samples."""
    from medalign import checkpoint

    first, second = checkpoint.latest(str(calm)), checkpoint.latest(str(run))
    assert first is not None
    assert second is not None
    assert first.state.step == STEPS
    found = checkpoint.diff(first, second)
    lines = [*(fact for fact in found.facts if "run.uri" not in fact), *found.changed]
    pairs = zip(figures(calm), figures(run), strict=False)
    lines += [f"figures {one} != {two}" for one, two in pairs if one != two]
    if len(figures(calm)) != len(figures(run)):
        lines.append(f"{len(figures(run))} lines of figures")
    (expected,), attempts = samples(calm), samples(run)
    seen: dict[tuple[int, int], list[int]] = {}
    for attempt in attempts:
        keys = list(attempt)
        if keys != [key for key in expected if keys[0] <= key <= keys[-1]]:
            lines.append(f"an attempt from {keys[0]} to {keys[-1]} is out of order")
        lines += [f"other samples at {key}" for key, ids in attempt.items() if ids != expected[key]]
        seen |= attempt
    return lines + [f"samples of {key} were never seen" for key in expected.keys() - seen.keys()]


def figures(run: Path) -> list[dict[str, Any]]:
    """Return a run's lines of metrics without what a clock has measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in WALL_CLOCK} for line in lines]


def samples(run: Path) -> list[dict[tuple[int, int], list[int]]]:
    """Return, for each attempt at a run, the row numbers of each (step, micro-batch), in the order they were met."""
    attempts: list[dict[tuple[int, int], list[int]]] = []
    for line in (run / "samples").read_text().splitlines():
        if line == "start":
            attempts.append({})
        else:
            step, index, *ids = map(int, line.split())
            attempts[-1][step, index] = ids
    return [attempt for attempt in attempts if attempt]


def _kill(recipe: str, run: Path, progress: mmap.mmap, *, point: int, delay: float) -> tuple[int, int]:
    """Start a child, kill it a moment after it has come to a point, and return where it was: (step, phase of it)."""
    child = _fork(recipe, run, progress)
    end = time.monotonic() + LIMIT_S
    while (there := struct.unpack("q", progress[:])[0]) < point:
        pid, status = os.waitpid(child, os.WNOHANG)
        assert not pid, f"{run} ended by itself ({status}): {(run / 'prints').read_text()[-2000:]}"
        assert time.monotonic() < end, f"{run} hangs at {there}"
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    there = struct.unpack("q", progress[:])[0]
    return divmod(there, MICRO_BATCHES * 4)


def _end(child: int) -> None:
    end = time.monotonic() + LIMIT_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("a child hangs")
        time.sleep(0.005)
    assert os.waitstatus_to_exitcode(status) == 0, f"a child ended with {status}"


def _fork(recipe: str, run: Path, progress: mmap.mmap) -> int:
    progress[:] = struct.pack("q", 0)
    run.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child
    try:
        with open(run / "prints", "a") as prints, open(run / "samples", "a", buffering=1) as log:
            for stream in (1, 2):
                os.dup2(prints.fileno(), stream)
            _watch(log, progress)
            from medalign import train

            train(recipe, [f"run.uri={run}"])
        os._exit(0)
    except BaseException:  # noqa: BLE001
        import traceback

        (run / "prints").write_text(traceback.format_exc())
        os._exit(1)


def _watch(log: Any, progress: mmap.mmap) -> None:
    """Log the samples of each forward, tell where the loop is, and let batches be prefetched by a thread."""
    from medalign.data.batches import BatchStream
    from medalign.training.engine import Engine

    log.write("start\n")
    forward, backward, step, plain = Engine.forward, Engine.backward, Engine.step, BatchStream.plain
    at = [0]

    def tell(place: int) -> None:
        at[0] = place
        progress[:] = struct.pack("q", place)

    def watched_forward(self: Engine, batch: Any) -> Any:
        if not self.module.training:
            return forward(self, batch)
        key = batch.key
        tell((key.step * MICRO_BATCHES + key.index) * 4)
        log.write(" ".join(map(str, [key.step, key.index, *batch.ids.tolist()])) + "\n")
        result = forward(self, batch)
        tell(at[0] + 1)
        return result

    def watched_backward(self: Engine, loss: Any) -> None:
        backward(self, loss)
        tell(at[0] + 1)

    def watched_step(self: Engine, rate: float) -> Any:
        outcome = step(self, rate)
        tell(at[0] + 1)
        return outcome

    def prefetched(self: BatchStream, *words: Any, **options: Any) -> Iterator[Any]:
        yield from _ahead(plain(self, *words, **options))

    changed = {"forward": watched_forward, "backward": watched_backward, "step": watched_step}
    for name, function in changed.items():
        setattr(Engine, name, function)
    BatchStream.plain = prefetched  # type: ignore[method-assign]


def _ahead(source: Iterator[Any], depth: int = 3) -> Iterator[Any]:
    """Let a thread take up to `depth` items ahead."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    end = object()

    def fill() -> None:
        for item in source:
            ready.put(item)
        ready.put(end)

    threading.Thread(target=fill, daemon=True).start()
    while (item := ready.get()) is not end:
        yield item


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        found = nursery(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(found))  # noqa: T201
