"""Planned crashes: where they are planned, when they strike, and that an unplanned point costs nothing."""

import os
import subprocess
import sys
import timeit

import pytest

from medalign import faults
from medalign.errors import UserError

CODE = "from medalign.faults import fault\nfor n in range(3): fault('ckpt.here'); print(n, flush=True)"


@pytest.fixture(autouse=True)
def _disarmed():
    yield
    faults.arm("")


@pytest.mark.parametrize(
    ("plan", "rank", "printed"),
    [
        ("ckpt.here:2", "0", "0"),
        ("ckpt.here", "0", ""),
        ("other:1, ckpt.here:3", "0", "01"),
        ("ckpt.here:2@1", "1", "0"),
        ("ckpt.here:2@1", "0", "012"),
        ("", "0", "012"),
    ],
)
def test_a_process_ends_at_the_planned_visit_of_the_planned_rank(plan, rank, printed):
    environment = {**os.environ, "MEDALIGN_FAULT": plan, "RANK": rank}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == list(printed), done.stderr
    assert done.returncode == (0 if printed == "012" else faults.EXIT_CODE)


def test_a_disk_can_be_planned_to_fill():
    faults.arm("ckpt.write:2=full")
    faults.fault("ckpt.write")
    with pytest.raises(OSError, match="No space left"):
        faults.fault("ckpt.write")


@pytest.mark.parametrize("plan", ["ckpt.here:0", "ckpt.here=explode", "ckpt here", "a:b"])
def test_a_plan_that_does_not_read_is_refused(plan):
    with pytest.raises(UserError, match="MEDALIGN_FAULT: .* is not POINT"):
        faults.arm(plan)


def test_an_unplanned_point_costs_a_fraction_of_a_microsecond():
    assert min(timeit.repeat(lambda: faults.fault("ckpt.here"), number=10_000, repeat=5)) / 10_000 < 2e-6
