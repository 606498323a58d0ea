"""A multimodal model under the engine on two ranks, one of which has neither an image nor a target."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RIG = Path(__file__).with_name("multimodal_rig.py")


def losses(folder: Path, *, zero: int, stage: int) -> list[float]:
    command = [sys.executable, str(RIG)]
    rest = [str(zero), str(stage), str(folder / f"store-{zero}-{stage}")]
    ranks = [
        subprocess.Popen([*command, rank, *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    try:
        shown, complaints = ranks[0].communicate(timeout=150)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[0].returncode == 0, complaints[-2000:]
    return json.loads(shown.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_sharded_ranks_that_hold_unlike_batches_do_not_hang_and_give_the_losses_of_whole_ones(tmp_path, stage):
    whole = losses(tmp_path, zero=0, stage=stage)
    assert whole[2] < whole[1] < whole[0]
    assert losses(tmp_path, zero=3, stage=stage) == pytest.approx(whole, abs=1e-5)
