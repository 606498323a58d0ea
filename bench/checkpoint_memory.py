"""Memory while a large model's checkpoint is saved and loaded: no process holds more than its share plus one tensor.

python bench/checkpoint_memory.py [--workers 4] [--layers 20] [--folder DIR]

A LLaMA of 322 M parameters with Adam under ZeRO-3, fp32, on CPU workers. One set of processes fills and saves it, a
second, fresh one loads it and compares. Each prints the peak of its resident memory beyond what it had before the model
beside its share (what the engine holds at rest, 20 bytes a parameter: the weight, its gradient, DeepSpeed's own copy of
the weight, Adam's two) plus the largest tensor.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BAR = 1.3
KEYS = ["exp_avg", "exp_avg_sq"]


def main() -> None:
    """Measure and print; exit 1 above the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--layers", type=int, default=20, help="of 12.8 M parameters each, beside 65.5 M of words")
    parser.add_argument("--folder", type=Path, help="where the checkpoint goes; a temporary folder if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        worst = 0.0
        for action in ("save", "load"):
            for found in _on_ranks(action, folder, arguments.workers, arguments.layers):
                ratio = found["peak"] / (found["share"] + found["tensor"])
                worst = max(worst, ratio)
                print(
                    f"{action} rank {found['rank']}: {found['parameters'] / 1e6:.0f} M parameters,"
                    f" base {_mb(found['base'])}, share {_mb(found['share'])} + tensor {_mb(found['tensor'])},"
                    f" at rest {_mb(found['rest'])}, peak {_mb(found['peak'])}: ratio {ratio:.3f}"
                    f" ({found['seconds']:.0f} s)",
                    flush=True,
                )
    print(f"worst ratio {worst:.3f}, bar {BAR}")
    sys.exit(worst > BAR)


def _on_ranks(action: str, folder: str, world: int, layers: int) -> Iterator[dict[str, Any]]:
    spawn = multiprocessing.get_context("spawn")
    (Path(folder) / action).mkdir()
    ranks = [spawn.Process(target=_rank, args=(rank, world, action, folder, layers)) for rank in range(world)]
    for process in ranks:
        process.start()
    while any(process.exitcode is None for process in ranks) and not any(process.exitcode for process in ranks):
        time.sleep(0.1)
    failed = [process.exitcode for process in ranks if process.exitcode]
    for process in ranks:
        process.kill()
        process.join()
    if failed:
        sys.exit(f"{action}: a rank ended with {failed[0]}")
    for rank in range(world):
        yield json.loads((Path(folder) / action / f"rank-{rank}.json").read_text())


def _rank(rank: int, world: int, action: str, folder: str, layers: int) -> None:
    import torch

    from medalign.training.session import process_group

    torch.set_num_threads(1)
    with process_group(rank, world, store=str(Path(folder) / action)):
        found = _measure(action, folder, layers)
        (Path(folder) / action / f"rank-{rank}.json").write_text(json.dumps({"rank": rank, **found}))
    os._exit(0)


def _measure(action: str, folder: str, layers: int) -> dict[str, Any]:
    from medalign import checkpoint
    from medalign.checkpoint import TrainState

    _engine(layers=1, width=64)  # all code is in memory now
    _settle()
    base = _resident()
    engine = _engine(layers=layers, width=1024)
    if action == "save":
        engine.prepare_optimizer(KEYS, 1)
        for name, key, value in _values(engine):
            engine.scatter(name, key, value)
        del value
        share = _share(engine)
        _settle()
        rest = _resident() - base
        _forget_peak()
        since = time.monotonic()
        checkpoint.save(folder, TrainState(step=1, seed=0, global_batch=8), engine, recipe={})
    else:
        _settle()
        rest = _resident() - base
        saved = checkpoint.latest(folder)
        assert saved is not None
        _forget_peak()
        since = time.monotonic()
        checkpoint.load(saved, engine)
        share = _share(engine)
    seconds, peak = time.monotonic() - since, _peak() - base
    if action == "load":
        for name, key, value in _values(engine):
            assert bool((engine.gather(name, key) == value).all()), (name, key)
    shapes = engine.shapes().values()
    sizes = [_product(shape) for shape in shapes]
    return {
        "base": base,
        "share": share,
        "tensor": 4 * max(sizes),
        "rest": rest,
        "peak": peak,
        "parameters": sum(sizes),
        "seconds": seconds,
    }


def _engine(*, layers: int, width: int) -> Any:
    """Return an engine at ZeRO-3 whose module was cut into shares as it was built."""
    import deepspeed
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from medalign.training.engine import Engine

    config = LlamaConfig(
        vocab_size=32_000 if width > 64 else 100,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        pad_token_id=None,
    )
    plan = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    with deepspeed.zero.Init(config_dict_or_path=plan):
        module = LlamaForCausalLM._from_config(config)
    return Engine(
        module,
        torch.optim.AdamW(module.parameters(), lr=1e-4),
        zero_stage=3,
        precision="fp32",
        micro_batch=1,
        accumulation=1,
        clip=1.0,
    )


def _values(engine: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield what each full tensor holds, the same on every rank."""
    import torch

    for number, (name, shape) in enumerate(engine.shapes().items()):
        for place, key in enumerate(("weight", *KEYS)):
            values = torch.arange(_product(shape), dtype=torch.float32)
            yield name, key, values.remainder_(1021).mul_(1e-3).add_(3 * number + place).reshape(shape)


def _share(engine: Any) -> int:
    """Return the bytes that this rank's part of the engine holds at rest."""
    parts = [p.ds_tensor for p in engine.module.parameters()]
    parts += [p.data for p in engine.module.parameters() if p.ds_status.name == "AVAILABLE"]
    parts.append(engine._engine.optimizer.grad_partitions_flat_buffer)
    for flat in engine._engine.optimizer.fp32_partitioned_groups_flat:
        parts += [flat, *(value for value in engine._basic.state[flat].values() if value.ndim)]
    return sum(part.numel() * part.element_size() for part in parts)


def _settle() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _mb(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
