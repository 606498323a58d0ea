import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("few_shot_scale.py")


def measure(classes: int, steps: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(classes), str(steps)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_transport_is_a_tenth_of_a_step_at_most():
    assert measure(100, 3)["share"] <= 0.1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_thousand_classes_fit_in_8_gigabytes():
    assert measure(1000, 1)["peak"] < 8
