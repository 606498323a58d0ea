"""Memory of a large model's save and load: each process holds its share and one tensor."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "checkpoint_memory.py"


@pytest.mark.slow
def test_two_workers_save_and_load_78_m_parameters_in_their_share_and_one_tensor(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--workers", "2", "--layers", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    ratios = [float(found) for found in re.findall(r"ratio (\d\.\d+) \(", done.stdout)]
    assert len(ratios) == 4  # two ranks save, two load, and those compare every tensor
    assert max(ratios) <= 1.3
