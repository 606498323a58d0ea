"""A rig of plain subprocesses: every rank of a gloo group works through a list of cases, and hands its results back."""

import importlib
import multiprocessing
import os
import pickle
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_S = 540


@dataclass(frozen=True)
class Case:
    """One call: a function of training_cases.py, which takes (rank, world, **arguments)."""

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


def run_worlds(cases: dict[int, list[Case]], folder: Path) -> dict[int, list[list[Any]]]:
    """Run each world's cases on as many processes, all worlds side by side; return [world][case][rank]."""
    spawn = multiprocessing.get_context("spawn")
    started = []
    for world, jobs in cases.items():
        at = folder / f"world-{world}"
        at.mkdir(parents=True)
        started += [spawn.Process(target=_rank, args=(rank, world, jobs, str(at))) for rank in range(world)]
    for process in started:
        process.start()
    try:
        end = time.monotonic() + LIMIT_S
        # one that failed leaves the others waiting in a collective for ever: no need to wait for them
        while any(p.exitcode is None for p in started) and not any(p.exitcode for p in started):
            if time.monotonic() > end:
                raise TimeoutError(f"the ranks did not end within {LIMIT_S} s; {_reports(folder)}")
            time.sleep(0.05)
    finally:
        time.sleep(0.2)
        for process in started:
            process.kill()
            process.join()
    if any(process.exitcode for process in started):
        raise AssertionError(f"a rank failed: {_reports(folder)}")
    return {world: _results(folder / f"world-{world}", world, len(jobs)) for world, jobs in cases.items()}


def _rank(rank: int, world: int, jobs: list[Case], folder: str) -> None:
    import torch

    from medalign.training.session import process_group

    torch.set_num_threads(1)
    at = Path(folder)
    try:
        with process_group(rank, world, store=folder), open(at / f"prints-{rank}", "w") as prints:
            for stream in (1, 2):  # DeepSpeed prints, torch warns about DeepSpeed
                os.dup2(prints.fileno(), stream)
            functions = importlib.import_module("training_cases")
            for number, case in enumerate(jobs):
                (at / f"at-{rank}").write_text(f"{case}")
                result = getattr(functions, case.function)(rank, world, **case.arguments)
                (at / f"{number}-{rank}.pickle").write_bytes(pickle.dumps(result))
    except BaseException:  # noqa: BLE001
        (at / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _results(at: Path, world: int, count: int) -> list[list[Any]]:
    return [
        [pickle.loads((at / f"{number}-{rank}.pickle").read_bytes()) for rank in range(world)]
        for number in range(count)
    ]


def _reports(folder: Path) -> str:
    found = [*folder.glob("world-*/at-*"), *folder.glob("world-*/error-*")]
    return "\n".join(f"{path.parent.name} {path.name}: {path.read_text()}" for path in found)
