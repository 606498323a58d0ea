"""Plans beside what was measured: parameters, steps and peak memory of CPU runs, each in a process of its own.

python bench/plan_accuracy.py [--only NAME ...] [--json FILE]

Each setting is planned, then trained for a few steps in a fresh process, whose peak resident memory the kernel keeps.
The process's own footprint (imports, one engine) is measured by a run of next to no weights and images, and stands in
the plan in place of its constant. Parameters and steps must be equal, the peak within 15 %. No GPU is involved.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BAR = 0.15
# What is measured is what PyTorch holds: glibc gives freed blocks back at once, rather than keep them for later.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
STEPS = 3
COMMON = ["train.workers=0", f"train.steps={STEPS}", "train.validate_every=0", "train.checkpoint_every=0"]
COMMON += ["tracking.tensorboard=false", "data.shuffle_rows=64", "schedule={type: constant}"]
COMMON += ["train.epochs=null", "train.gpus_per_worker=0", "train.threads=1"]
RESNET = ["model.embedding_size=64", "model.hidden_sizes=[64, 128, 256, 512]", "model.depths=[2, 2, 2, 2]"]
VIT = ["model.hidden_size=384", "model.heads=6", "model.mlp_size=1536", "model.layers=8", "data.image_size=96"]
VIT += ["model.image_size=96", "model.patch_size=8"]
CHAT = ["data.image_size=224", "objective.graphs=[image, answer, extended]", "model.max_length=512"]
SMOL = [*CHAT, "model.language=smollm2_135m"]


def sizes(micro: int, total: int, stage: int, precision: str = "fp32") -> list[str]:
    """Return the overrides of a batch and an engine."""
    batch = [f"train.micro_batch={micro}", f"train.global_batch={total}"]
    return [*batch, f"train.zero_stage={stage}", f"train.precision={precision}"]


IMAGES, CHATS = "lvm_med/tiny_cpu", "logra_med/tiny"
SETTINGS: dict[str, tuple[str, list[str]]] = {
    "tiny resnet, 64 images": (IMAGES, sizes(64, 64, 1)),
    "tiny resnet, 256 images": (IMAGES, sizes(256, 256, 0)),
    "resnet-18, 32 of 128 px, ZeRO 0": (IMAGES, [*RESNET, "data.image_size=128", *sizes(32, 32, 0)]),
    "resnet-18, 32 of 128 px, ZeRO 2": (IMAGES, [*RESNET, "data.image_size=128", *sizes(32, 64, 2)]),
    "resnet-18, bf16, ZeRO 1": (IMAGES, [*RESNET, "data.image_size=128", *sizes(32, 32, 1, "bf16")]),
    "wide resnet, sgd, ZeRO 1": (
        IMAGES,
        [
            "model.hidden_sizes=[256, 512, 1024]",
            "model.depths=[2, 2, 3]",
            "optimizer.type=sgd",
            *sizes(32, 32, 1),
        ],
    ),
    "vit, 32 of 96 px, ZeRO 0": ("lvm_med/vit_b16", [*VIT, *sizes(32, 32, 0)]),
    "vit, 32 of 96 px, ZeRO 3": ("lvm_med/vit_b16", [*VIT, *sizes(32, 32, 3)]),
    "vit, bf16, ZeRO 2": ("lvm_med/vit_b16", [*VIT, *sizes(32, 32, 2, "bf16")]),
    "vit-b16, 16 of 96 px, ZeRO 1": ("lvm_med/vit_b16", ["data.image_size=96", *sizes(16, 16, 1)]),
    "vit-b16, 16 of 96 px, ZeRO 2": ("lvm_med/vit_b16", ["data.image_size=96", *sizes(16, 16, 2)]),
    "bytes, packed, 32 chats": (CHATS, [*CHAT, *sizes(32, 32, 1)]),
    "bytes, separate, 64 chats": (CHATS, [*CHAT, "model.text_nodes=separate", *sizes(64, 64, 0)]),
    "smollm2, stage 1": (CHATS, [*SMOL, "model.stage=1", *sizes(8, 8, 1)]),
    "smollm2, stage 2, checkpointed": (CHATS, [*SMOL, "model.activation_checkpointing=true", *sizes(8, 8, 0)]),
    "smollm2, stage 2, all kept": (CHATS, [*SMOL, *sizes(8, 8, 0)]),
    "smollm2, LoRA": (CHATS, [*SMOL, "model.lora.rank=8", *sizes(8, 8, 1)]),
}
SMALLEST = [
    "model.embedding_size=8",
    "model.hidden_sizes=[8, 8, 8]",
    *sizes(16, 16, 1),
    "data.image_size=16",
]


def main() -> None:
    """Plan, measure, print; exit 1 where a plan is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="settings by their first words")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keeps", action="store_true", help="let glibc keep freed blocks, as it does by itself")
    parser.add_argument("--one", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _one(*arguments.one)
        return
    chosen = {n: s for n, s in SETTINGS.items() if not arguments.only or n.startswith(tuple(arguments.only))}
    with tempfile.TemporaryDirectory() as folder:
        corpora = {IMAGES: _images(Path(folder)), CHATS: _chats(Path(folder))}
        base = _measure("base", IMAGES, SMALLEST, corpus=corpora[IMAGES], folder=folder, gives_back=not arguments.keeps)
        runtime = base["peak"]
        print(f"a process of next to nothing: {runtime / 1e6:.0f} MB", flush=True)
        found = []
        for name, (recipe, overrides) in chosen.items():
            corpus = corpora[CHATS if recipe == CHATS else IMAGES]
            row = {
                "name": name,
                **_measure(name, recipe, overrides, corpus=corpus, folder=folder, gives_back=not arguments.keeps),
            }
            row["planned_peak"] += runtime - base["constant"]
            row["runtime"], row["error"] = runtime, row["planned_peak"] / row["peak"] - 1
            row["own_error"] = (row["planned_peak"] - runtime) / max(row["peak"] - runtime, 1) - 1
            row["fine"] = abs(row["error"]) <= BAR and row["parameters"] == row["planned_parameters"]
            row["fine"] = row["fine"] and row["steps"] == row["planned_steps"]
            found.append(row)
            print(_line(row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    sys.exit(0 if all(row["fine"] for row in found) else 1)


def _line(row: dict[str, Any]) -> str:
    equal = "=" if row["parameters"] == row["planned_parameters"] and row["steps"] == row["planned_steps"] else "NOT ="
    return (
        f"{row['name']:34} parameters, steps {equal} plan ({sum(row['parameters']) / 1e6:7.2f} M, {row['steps']});"
        f" peak {row['peak'] / 1e6:6.0f} MB, planned {row['planned_peak'] / 1e6:6.0f} MB: {row['error']:+.1%}"
        f" (beyond the process {row['own_error']:+.0%}){'' if row['fine'] else '  OFF'}"
    )


def _measure(
    name: str, recipe: str, overrides: list[str], *, corpus: str, folder: str, gives_back: bool = True
) -> dict[str, Any]:
    run = str(Path(folder) / "runs" / name.replace(" ", "_").replace(",", ""))
    words = [recipe, f"run.uri={run}", f"data.corpus={corpus}", *COMMON, *overrides]
    found: dict[str, Any] = {}
    environment = {**os.environ, **(GIVES_BACK if gives_back else {}), "OMP_NUM_THREADS": "1"}
    for action in ("plan", "train"):
        command = [sys.executable, __file__, "--one", action, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
        if done.returncode:
            sys.exit(f"{name}: {action} ended with {done.returncode}\n{done.stderr[-2000:]}")
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def _one(action: str, recipe: str, *overrides: str) -> None:
    import torch

    torch.set_num_threads(1)
    print(json.dumps(_plan(recipe, overrides) if action == "plan" else _train(recipe, overrides)))


def _plan(recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    from medalign.plan.forecast import forecast
    from medalign.plan.memory import CPU_RUNTIME
    from medalign.recipe import open_recipe

    found = forecast(open_recipe(recipe, overrides)[0])
    return {
        "planned_peak": found.memory.peak,
        "planned_parameters": [found.parameters.trained, found.parameters.frozen],
        "planned_steps": found.work.steps,
        "constant": CPU_RUNTIME,
    }


def _train(recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    from medalign import train
    from medalign.launch import worker

    seen: list[int] = []
    build = worker.build_module

    def counted(settled: Any) -> Any:
        module = build(settled)
        for trains in (True, False):
            seen.append(sum(p.numel() for p in module.parameters() if p.requires_grad == trains))
        return module

    worker.build_module = counted
    result = train(recipe, list(overrides))
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return {"parameters": seen, "steps": result.step, "peak": peak}


def _images(folder: Path) -> str:
    from medalign import prepare

    draw = np.random.default_rng(0)
    for kind in ("one", "two"):
        (folder / "images" / kind).mkdir(parents=True)
        for number in range(240):
            pixels = draw.integers(0, 256, (96, 96), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / kind / f"{number:04d}.png")
    corpus = str(folder / "image-corpus")
    prepare(str(folder / "images"), format="image-folder", out=corpus)
    return corpus


def _chats(folder: Path) -> str:
    from medalign import prepare

    draw, words = random.Random(0), "the lung shows a small opacity in lower left field without effusion".split()
    (folder / "pictures").mkdir()
    records = []
    for number in range(140):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        question = {"from": "human", "value": f"<image>\n{' '.join(draw.choices(words, k=8))}?"}
        said = [{"from": "gpt", "value": " ".join(draw.choices(words, k=k))} for k in (20, 40)]
        turns = {"conversations": [question, said[0]], "conversations_long": [question, said[1]]}
        records.append({"id": str(number), "image": f"{number}.png", **turns})
    (folder / "chats.json").write_text(json.dumps(records))
    corpus = str(folder / "chat-corpus")
    prepare(str(folder / "chats.json"), format="llava-med", out=corpus, options={"images": "pictures"})
    return corpus


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
