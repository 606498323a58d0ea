"""A training of plain tensors in a child process, killed at a planned point: what it leaves, and how it goes on."""

import os
import time
from pathlib import Path

import torch
from plain_tensors import PlainTensors

from medalign import checkpoint, faults
from medalign.checkpoint import Saver, TrainState
from medalign_core.ops.draws import draw_seed

STEPS, KEEP, BEST_STEP = 8, 2, 1
POINTS = (
    *("ckpt.before_stage", "ckpt.mid_file", "ckpt.before_files", "ckpt.after_stage", "ckpt.after_part"),
    *("ckpt.before_manifest", "ckpt.after_manifest", "ckpt.after_pointer", "ckpt.after_tidy"),
    *("ckpt.prune_unlisted", "ckpt.prune_half", "ckpt.after_prune"),
)


def train(run: str, *, steps: int = STEPS) -> PlainTensors:
    """Go on from the newest checkpoint, if any, saving after each step; return the tensors at the end."""
    saved, tensors = checkpoint.latest(run), PlainTensors(0)
    if saved:
        checkpoint.load(saved, tensors)
    state = saved.state if saved else TrainState(step=0, seed=1, global_batch=8)
    saver = Saver(run, tensors, keep=KEEP, deadline=60)
    for step in range(state.step + 1, steps + 1):
        advance(tensors, step)
        figure = 0.5 if step == BEST_STEP else None
        saver.save(TrainState(step=step, seed=1, global_batch=8), {}, figure=figure)
    saver.drain()
    return tensors


def advance(tensors: PlainTensors, step: int) -> None:
    """Move every tensor by what the step draws."""
    draw = torch.Generator().manual_seed(draw_seed(1, "step", step))
    for held in [*tensors.tensors.values(), tensors.others]:
        for key, value in held.items():
            held[key] = 0.9 * value + torch.randn(value.shape, generator=draw)
    tensors.step = step


def undisturbed() -> list[PlainTensors]:
    """Return the tensors after 0, 1, ... steps."""
    found = []
    for steps in range(STEPS + 1):
        tensors = PlainTensors(0)
        for step in range(1, steps + 1):
            advance(tensors, step)
        found.append(tensors)
    return found


def train_and_die(run: str, plan: str) -> int:
    """Train in a child with a fault planned; return the child's exit code."""
    child = os.fork()
    if child == 0:
        try:
            faults.arm(plan)
            train(run)
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(99)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    raise AssertionError("the child hangs")


def left_behind(run: str) -> list[str]:
    """Return what belongs to no complete checkpoint: unfinished folders, unlisted files, half-written ones."""
    found = [Path(uri).name for uri in checkpoint.incomplete(run)]
    for uri in checkpoint.complete(run):
        state = checkpoint.latest(run)
        assert state is not None
        found += [line for line in checkpoint.verify(checkpoint.Saved(uri, state.state)) if "not listed" in line]
    return found + [path.name for path in Path(run, "checkpoints").glob("*.part")]
