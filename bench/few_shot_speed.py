"""How long Dude trains, what the transport takes of a step, and what a thousand classes take of memory.

python bench/few_shot_speed.py [--threads 2] [--parts run profile step memory]

    run       16 shots of 11 classes on cached features, the published 50 epochs, through the last prediction
    profile   where a step of the run goes, by self time of operators
    step      one training step of 32 images x 100 classes, N = 4 prompts, 49 tokens: the transport's share of it
    memory    the same with 1,000 classes, encoded in chunks: the peak of the whole process

Where seconds and processor time lie far apart (a thread's worth for each), something else was running too. Each part
runs in a process of its own, with the packaged bridge: MiniLM's 6 blocks behind every prompt. Features are
drawn, each class around a direction of its own; no time depends on what an image shows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from medalign import banks
from medalign.banks.class_texts import class_texts
from medalign.dual_encoders import open_dual_encoder
from medalign.few_shot.fitting import TrainViews, batches, fit, predict
from medalign_core.models.dual.settings import Bridge
from medalign_core.objectives.few_shot.contract import ClassTexts
from medalign_core.objectives.few_shot.dude.settings import Dude
from medalign_core.solvers.transport import factors

TOKENS, WIDTH, VIEWS, BATCH, SHOTS, CLASSES = 49, 384, 4, 32, 16, 11
BANKS = ("ready:packaged_modalities", "ready:bccd_cells", "ready:chest_xray_pneumonia")  # 6 + 3 + 2 classes
LINES = {
    "run": "16 shots x 11 classes, {steps} steps: {seconds:.1f} s, {processor:.1f} s of processor time"
    " (before it {opened:.1f} s for opening the encoder)",
    "profile": "a step of 32 images x 11 classes: {products:.0%} matrix products, {attention:.0%} attention",
    "step": "32 images x 100 classes: {seconds:.2f} s a step, of it {share:.1%} transport, forward and backward",
    "memory": "32 images x 1,000 classes, one step in {seconds:.0f} s: {peak:.2f} GB at its peak",
}


def main() -> None:
    """Run each part in a process of its own and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--alone", choices=list(LINES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        found = {"run": whole_run, "profile": profile, "step": step, "memory": memory}[arguments.alone]()
        print(json.dumps(found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
        return
    print(f"{arguments.threads} threads, torch {torch.__version__}", flush=True)
    for part in arguments.parts:
        command = [sys.executable, __file__, "--threads", str(arguments.threads), "--alone", part]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(LINES[part].format(**json.loads(done.stdout.splitlines()[-1])), flush=True)


def whole_run() -> dict[str, float]:
    """Train on 16 shots of 11 classes as a cell of a comparison does, and classify 1,000 images."""
    start = time.perf_counter()
    encoder = open_dual_encoder(Bridge())
    opened, processor = time.perf_counter(), time.process_time()
    method = Dude().build(encoder, texts_of_banks(), seed=0)
    support = drawn(SHOTS, CLASSES)
    done = fit(method, support, Dude.schedule, epochs=Dude.schedule.epochs_for(SHOTS), views=1, seed=0)
    predict(method, *(x.flatten(0, 1)[:1000] for x in (support.tokens, support.pooled)))
    spent = {"seconds": time.perf_counter() - opened, "processor": time.process_time() - processor}
    return spent | {"opened": opened - start, "steps": done.steps}


def texts_of_banks() -> ClassTexts:
    """Return the texts of the eleven classes."""
    parts = [class_texts(bank, list(bank.classes)) for bank in map(banks.read, BANKS)]
    return ClassTexts(
        names=tuple(name for part in parts for name in part.names),
        template="a photo of a {}.",
        descriptions=tuple(listed for part in parts for listed in part.descriptions),
    )


def profile() -> dict[str, float]:
    """Return the shares of a step's self time that matrix products and attention take."""
    method = Dude().build(open_dual_encoder(Bridge()), texts_of_banks(), seed=0).train()
    batch = next(batches(drawn(SHOTS, CLASSES), size=BATCH, views=1, epoch=0, seed=0))
    method(batch)[0].backward()
    with torch.profiler.profile() as seen:
        for _ in range(3):
            method(batch)[0].backward()
    spent = {entry.key: entry.self_cpu_time_total for entry in seen.key_averages()}
    whole = sum(spent.values())
    products = sum(spent.get(f"aten::{name}", 0) for name in ("mm", "addmm", "bmm"))
    attention = sum(value for name, value in spent.items() if name.startswith("aten::_scaled_dot_product"))
    return {"products": products / whole, "attention": attention / whole}


def step() -> dict[str, float]:
    """Return the seconds of the fastest of three steps, and the transport's share of it."""
    return _steps(classes=100, count=3)


def memory() -> dict[str, float]:
    """Return the seconds of one step with 1,000 classes."""
    return _steps(classes=1000, count=1)


def drawn(images: int, classes: int) -> TrainViews:
    """Return the features of so many images of each class, in four views."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(images * classes) % classes
    centre = torch.randn(classes, 1, 1, WIDTH, generator=draws)
    tokens = centre[labels] + 2 * torch.randn(len(labels), VIEWS, TOKENS, WIDTH, generator=draws)
    return TrainViews(tokens=tokens.half(), pooled=tokens.mean(dim=2), labels=labels)


def _steps(*, classes: int, count: int) -> dict[str, float]:
    names = tuple(f"finding number {c}" for c in range(classes))
    sentences = tuple(tuple(f"{name} seen from side {k}" for k in range(4)) for name in names)
    texts = ClassTexts(names=names, template="a photo of a {}.", descriptions=sentences)
    method = Dude().build(open_dual_encoder(Bridge()), texts, seed=0).train()
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=2e-3, eps=1e-3)
    batch = next(batches(drawn(1, classes), size=BATCH, views=1, epoch=0, seed=0))
    spent = [0.0]
    transport: Any = factors._Score
    for name in ("forward", "backward"):
        setattr(transport, name, _timed(getattr(transport, name), spent))
    best = {"seconds": float("inf"), "share": 1.0}
    for _ in range(count):
        spent[0], start = 0.0, time.perf_counter()
        optimizer.zero_grad()
        method(batch)[0].backward()
        optimizer.step()
        seconds = time.perf_counter() - start
        best = min(best, {"seconds": seconds, "share": spent[0] / seconds}, key=lambda found: found["seconds"])
    return best


def _timed(function: Callable[..., Any], spent: list[float]) -> staticmethod:
    """Wrap a static method so that its seconds are added up."""

    def run(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        spent[0] += time.perf_counter() - start
        return result

    return staticmethod(run)


if __name__ == "__main__":
    main()
