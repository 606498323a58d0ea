"""Checkpoints of each release, kept as files, load: format 2 is of release 0.1. `golden/` is never written again."""

import json
from pathlib import Path

import torch
from plain_tensors import PlainTensors

from medalign import checkpoint
from medalign.checkpoint import TrainState, weights

GOLDEN = Path(__file__).parent / "golden" / "checkpoint-2"  # two ranks, Adam, one running mean
SHAPES = {"encoder.a": (3, 4), "encoder.b": (4,), "head": (2, 2), "scale": ()}
KEYS = ("exp_avg", "exp_avg_sq")


def golden_tensors() -> PlainTensors:
    """Return what was saved: numbers that count up, a thousandth apart."""
    found = PlainTensors(0, shapes=SHAPES, keys=KEYS)
    at = 0
    for name, shape in SHAPES.items():
        for key in ("weight", *KEYS):
            size = torch.Size(shape).numel()
            found.tensors[name][key] = torch.arange(at, at + size).reshape(shape) / 1000
            at += size
    found.others = {"encoder.norm.running_mean": torch.arange(4) / 7}
    found.step = 5
    return found


def test_format_2_loads() -> None:
    saved = checkpoint.latest(str(GOLDEN))
    assert saved is not None
    assert saved.state == TrainState(step=6, seed=3, global_batch=16, skipped=1, best=0.5, data={"train": "0a" * 32})
    assert checkpoint.verify(saved) == []
    found = PlainTensors(9, shapes=SHAPES, keys=())
    checkpoint.load(saved, found)
    assert found.same_as(golden_tensors())
    assert weights(saved).keys() == {*SHAPES, "encoder.norm.running_mean"}
    assert checkpoint.best(str(GOLDEN)) == saved


def test_format_2_is_what_this_release_writes(tmp_path: Path) -> None:
    saved = checkpoint.latest(str(GOLDEN))
    assert saved is not None
    checkpoint.save(str(tmp_path), saved.state, golden_tensors(), recipe={"train": {"steps": 9}})
    now = checkpoint.latest(str(tmp_path))
    assert now is not None
    old, new = (json.loads((Path(c.uri) / "manifest.json").read_bytes()) for c in (saved, now))
    assert old.keys() == new.keys()
    assert old["schema"] == new["schema"] == "medalign.checkpoint/2"
    kept = {name: type(new["state"].get(name)) for name in old["state"]}
    assert {name: type(value) for name, value in old["state"].items()} == kept  # more may come, with a default
    assert checkpoint.diff(saved, now).changed == []
