"""A long run holds what it held at its beginning: files, threads, shared memory, temporary files, checkpoints."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from chaos_rig import write_recipe
from striped_corpus import write_corpus

from medalign import checkpoint

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
STEPS, EVERY, KEEP = 2000, 20, 3


def held(pid: int) -> dict[str, int]:
    """Count what a process holds, and what lies in the places that all share."""
    process = Path(f"/proc/{pid}")
    memory = dict(line.split(":") for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    return {
        "file descriptors": len(os.listdir(process / "fd")),
        "threads": len(os.listdir(process / "task")),
        "/dev/shm": len([name for name in os.listdir("/dev/shm") if str(pid) in name]),
        "temporary files": len([n for n in os.listdir(tempfile.gettempdir()) if n.startswith("medalign-")]),
        "PSS in MB": int(memory["Pss"].split()[0]) // 1000,
    }


def test_two_thousand_steps_with_a_hundred_checkpoints_hold_what_the_first_ones_held(tmp_path: Path) -> None:
    corpus, run = write_corpus(tmp_path / "stripes", {"train": 64}), tmp_path / "run"
    keys = {"steps": STEPS, "global_batch": 8, "checkpoint_every": EVERY, "keep_last": KEEP, "validate_every": 0}
    recipe = write_recipe(tmp_path, corpus, objective="info_nce", **keys)
    words = [sys.executable, "-m", "medalign.cli", "train", recipe, f"run.uri={run}", "tracking.log_every=10"]
    most, seen = 0, []
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        while process.poll() is None:
            time.sleep(0.2)
            folders = [path for path in (run / "checkpoints").glob("step-*") if path.is_dir()]
            most = max(most, len(folders))
            lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
            step = json.loads(lines[-1])["step"] if lines else 0
            if step >= len(seen) * 200 + 100 and process.poll() is None:
                seen.append((step, held(process.pid)))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    for step, counts in seen:
        print(f"R19 after {step} steps: {counts}, checkpoints at most {most}")  # noqa: T201
    assert len(seen) >= 8
    first, rest = seen[1][1], [counts for _, counts in seen[2:]]
    for name in ("file descriptors", "threads", "/dev/shm", "temporary files"):
        assert max(counts[name] for counts in rest) <= first[name] + (2 if name == "file descriptors" else 0), name
    assert max(counts["PSS in MB"] for counts in rest) <= 1.05 * first["PSS in MB"]
    assert most <= KEEP + 1
    saved = checkpoint.latest(str(run))
    assert saved is not None
    assert saved.state.step == STEPS
